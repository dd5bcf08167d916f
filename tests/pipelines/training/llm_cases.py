"""A captioner and its samples for the tests of ZeRO 3; imported by the training processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.runtime.training.loop import TrainWork
from sar3d.data.datasets.caption_dataset import CaptionSample, Description
from sar3d.data.loading.order import Order
from sar3d.llm.config import CaptionDecoding, LLMConfig, RandomLMConfig
from sar3d.llm.language_model import train_tokenizer
from sar3d.seeds import SampleKey
from sar3d.tasks.llm.config import LLMTaskConfig
from sar3d.tasks.llm.evaluate import CaptionSets
from sar3d.tasks.llm.task import LLMTask
from sar3d.training.settings import TrainSettings

CAPTIONS = ("a red apple", "a green pear", "a white can", "a gray fire truck", "a brown bowl")
# Odd widths leave parameters that no number of workers divides.
CONFIG = LLMConfig(
    codebook_size=32,
    code_dim=8,
    scales=(1, 2, 3),
    num_scales=2,
    projector=(15, 21),
    pos_embed=True,
    width=32,
    template="plain",
)


def sample(index: int) -> CaptionSample:
    codes = torch.randint(32, (42,), generator=torch.Generator().manual_seed(index))
    caption = CAPTIONS[index]
    return CaptionSample(f"object {index}", 0, codes, Description(caption.split()[-1], "thing", (caption,)))


@dataclass(frozen=True)
class Captions:
    @property
    def sizes(self) -> list[int]:
        return [len(CAPTIONS)]

    def batches(self, order: Order, start: int, rank: int, world: int, prefetch: int) -> Iterator[Any]:
        local, step = order.batch_size // world, start
        while True:
            rows = list(enumerate(order.batch(step).tolist()))[rank * local : (rank + 1) * local]
            yield step, [(SampleKey(order.seed, step, i), sample(row)) for i, row in rows]
            step += 1


def captioner(**config: Any) -> LLMTask:
    codebook = torch.randn(32, 8, generator=torch.Generator().manual_seed(5))
    tokenizer = train_tokenizer(CAPTIONS, 400)
    random = RandomLMConfig(width=32, layers=2, heads=2)
    return LLMTask(LLMTaskConfig(random=random, **config), CONFIG, codebook, "digest", tokenizer)


def captioning(folder: Path, task: LLMTask | None = None, **changes: Any) -> TrainWork:
    """Six steps of four samples with ZeRO 3, every step logged, a checkpoint every third; five objects to describe."""
    values = {"steps": 6, "batch": 4, "log_every": 1, "checkpoint_every": 3, "ema": None, "zero": 3}
    held_out = CaptionSets(
        {"views": [sample(i) for i in range(5)]}, CAPTIONS[0], decoding=CaptionDecoding(max_new_tokens=4)
    )
    return TrainWork(
        task=task or captioner(),
        train=Captions(),
        settings=TrainSettings(**(values | changes)),
        folder=str(folder / "checkpoints"),
        model_folder=str(folder / "model"),
        held_out=held_out,
    )
