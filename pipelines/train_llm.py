"""Stages `train_llm` and `train_llm_projector`: a language model that reads cached codes and describes objects."""

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.runtime.inputs import model, rows
from pipelines.runtime.models import FILES, Exported
from pipelines.runtime.stage import Context, Log
from pipelines.runtime.training.stage import TrainingStage, TrainInputs, TrainStageConfig
from pipelines.withheld import withheld_objects
from sar3d.data.datasets.caption_config import CaptionDataConfig
from sar3d.data.held_out import HeldOut
from sar3d.errors import NothingSelectedError, UserError
from sar3d.llm.config import LLMConfig
from sar3d.tasks.llm.config import LLMTaskConfig, model_config
from sar3d.training.settings import TrainSettings
from sar3d.vqvae.config import from_dict

if TYPE_CHECKING:
    from torch import Tensor

    from sar3d.data.datasets.caption_dataset import CaptionDataset, Descriptions
    from sar3d.tasks.llm.evaluate import CaptionSets


@dataclass(frozen=True)
class TrainLLMConfig(TrainStageConfig):
    """What the captioner is, what it learns from, and how it is judged."""

    train: TrainSettings = field(default_factory=lambda: TrainSettings(ema=None))
    """How it is trained; without a moving average, as published."""
    tokens: str = rows("tokens", default="cache_tokens")
    """The stage whose tokens are described."""
    objects: str = rows("objects", default="download")
    """The stage whose objects' captions, names and categories are the descriptions."""
    vqvae: str = model("vqvae", of="train_vqvae", inherit="cache_tokens.vqvae")
    """The VQVAE that made the tokens: a folder, a URL, or a stage that trains one; default: that of `cache_tokens`."""
    task: LLMTaskConfig = field(default_factory=LLMTaskConfig)
    data: CaptionDataConfig = field(default_factory=CaptionDataConfig)
    evaluate_objects: int = field(default=64, metadata={"identity": False})
    """Objects of each set that are described and measured."""


class TrainLLMStage(TrainingStage[TrainLLMConfig]):
    name = "train_llm"
    section = TrainLLMConfig
    writes = "llm"
    version = 1
    about = "train a language model that reads cached codes and describes objects"

    def check(self, context: Context[TrainLLMConfig]) -> None:
        config = context.config
        if config.train.ema is not None and config.train.zero == 3:
            raise UserError(
                f"{self.name}.train.zero=3 splits the weights, of which no moving average is kept: set ema=null"
            )

    def identity(self, context: Context[TrainLLMConfig]) -> dict[str, Any]:
        lm = "" if "init_from" in context.models else lm_digest(context.config.task.source)
        return {**super().identity(context), "lm": lm}

    def build(self, context: Context[TrainLLMConfig], log: Log) -> TrainInputs:
        from sar3d.data.datasets.caption_dataset import Descriptions
        from sar3d.llm.language_model import train_tokenizer
        from sar3d.tasks.llm.task import LLMTask

        config, vqvae = context.config, context.models["vqvae"]
        descriptions = Descriptions(context.rows["objects"].files())
        train = self._dataset(context, descriptions)
        left = f" ({train.without_caption:,} without a caption left out)" if train.without_caption else ""
        log(f"{self.name}: {train.size:,} view groups of {train.objects:,} objects to describe{left}")
        start, tokenizer = context.models.get("init_from"), None
        if start is None and not config.task.source:
            tokenizer = train_tokenizer(_texts(train), config.task.random.vocabulary)
        task = LLMTask(
            config.task,
            self._model_config(context),
            read_codebook(vqvae),
            vqvae.digest,
            tokenizer,
            None if start is None else start.folder,
        )
        return TrainInputs(task, train, self._held_out(context, descriptions, train))

    def _model_config(self, context: Context[TrainLLMConfig]) -> LLMConfig:
        from sar3d.llm.language_model import lm_width

        task, vqvae, start = context.config.task, context.models["vqvae"], context.models.get("init_from")
        if start is not None:
            return model_config(task, from_dict(vqvae.config), start.config["width"])
        width = lm_width(task.source) if task.source else task.random.width
        return model_config(task, from_dict(vqvae.config), width)

    def _dataset(
        self, context: Context[TrainLLMConfig], descriptions: "Descriptions", **chosen: Any
    ) -> "CaptionDataset":
        from sar3d.data.datasets.caption_dataset import CaptionDataset

        files, digest = context.rows["tokens"].files(), context.models["vqvae"].digest
        withheld = withheld_objects(context.rows["objects"])
        return CaptionDataset(files, descriptions, context.config.data, vqvae=digest, withheld=withheld, **chosen)

    def _held_out(
        self, context: Context[TrainLLMConfig], descriptions: "Descriptions", train: "CaptionDataset"
    ) -> "CaptionSets":
        """`views`: held-out view groups of training objects, where there are any; `objects`: validating objects."""
        from sar3d.metrics.captions import majority_caption
        from sar3d.tasks.llm.evaluate import CaptionSets

        config, sets = context.config, {}
        if config.data.held_out:
            sets["views"] = self._dataset(context, descriptions, held_out=True).shown(config.evaluate_objects)
        if config.data.val:
            all_groups = dataclasses.replace(config, data=dataclasses.replace(config.data, held_out=HeldOut()))
            try:
                validating = self._dataset(dataclasses.replace(context, config=all_groups), descriptions, split="val")
                sets["objects"] = validating.shown(config.evaluate_objects)
            except NothingSelectedError:  # a small dataset may have no object whose hash falls into the share
                pass
        known = [sample.about for sample in train.shown(_KNOWN)]
        majority = majority_caption([about.captions[0] for about in known], [about.name for about in known])
        names = tuple(sorted({(about.name, about.category) for about in known if about.name}))
        return CaptionSets(sets, majority, names, config.task.decoding)


_KNOWN = 4096
"""Training objects that the baseline and the known names are taken from."""
_TEXTS = 65536
"""Training objects whose texts a tokenizer is trained on."""


class TrainLLMProjectorStage(TrainLLMStage):
    name = "train_llm_projector"
    about = "train the projector of tokens into a language model, the first of the captioner's two stages"


def _texts(train: "CaptionDataset") -> list[str]:
    """Everything that is written in training, for the tokenizer."""
    from sar3d.tasks.llm.instructions import QUESTIONS, answers

    asked = [question for questions in QUESTIONS.values() for question in questions]
    told = [
        text
        for about in (sample.about for sample in train.shown(_TEXTS))
        for texts in answers(about.name, about.category, about.captions).values()
        for text in texts
    ]
    return [*asked, *(f" {text}" for text in told)]


def read_codebook(vqvae: Exported) -> "Tensor":
    """(K, D) codes of a saved VQVAE; nothing else of it is read."""
    from safetensors import safe_open

    with safe_open(vqvae.folder(FILES) / "model.safetensors", "pt") as file:
        codebook: Tensor = file.get_tensor("quantizer.codebook")
        return codebook.float()


def lm_digest(source: str) -> str:
    """What tells a language model from others: the content of a folder, the name of a repository; empty for none."""
    folder = Path(source)
    if not source or not folder.is_dir():
        return source
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        with path.open("rb") as file:
            total.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return total.hexdigest()


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("train_llm")
