"""A small VQVAE, objects that are nothing but codes, and a task on them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sar3d import hub
from sar3d.ar.config import ARSizeConfig
from sar3d.conditions.condition import Condition
from sar3d.data.datasets.prompted_objects import PromptedObject
from sar3d.data.datasets.token_dataset import TokenSample
from sar3d.data.loading.order import Order
from sar3d.data.loading.view_tensors import Targets
from sar3d.geometry import intrinsics, look_at, spherical_to_cartesian
from sar3d.seeds import SampleKey
from sar3d.tasks.ar.config import ARTaskConfig, model_config
from sar3d.tasks.ar.evaluate import FieldRenderer, decoded
from sar3d.tasks.ar.task import ARTask, EncoderSource, FrozenVQVAE
from sar3d.training.schedule import ScheduleSettings
from sar3d.training.settings import OptimizerSettings, TrainSettings
from sar3d.vqvae.config import VQVAEConfig, from_dict
from sar3d.vqvae.model import VQVAE

SCALES = (1, 2, 4)
LENGTH, CODES, TOKENS, WIDTH = 63, 32, 5, 16
SMALL = ARSizeConfig(depth=2, width=48, heads=2, gate_init=1.0)


def vqvae_config() -> VQVAEConfig:
    return from_dict(
        {
            "resolution": 32,
            "encoder": {"channels": 8, "multipliers": [1], "attention_width": 8, "attention_heads": 1},
            "quantizer": {"codebook_size": CODES, "scales": SCALES},
            "decoder": {
                "width": 16,
                "depth": 1,
                "heads": 1,
                "channels": 8,
                "multipliers": [1, 1],
                "blocks": 1,
                "plane_channels": 8,
                "tokens_in_stream": True,
            },
            "field": {"hidden": 16, "hidden_layers": 2, "density_scale": 20.0},
            "volume": {"coarse": 12, "fine": 0},
        }
    )


def save_vqvae(folder: Path, seed: int = 0) -> FrozenVQVAE:
    """Random weights, with unit codes and a loud field, so that different codes look different."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VQVAE(vqvae_config())
        with torch.no_grad():
            model.quantizer.codebook.copy_(torch.nn.functional.normalize(torch.randn(CODES, 8), dim=-1))
            for parameter in model.field_mlp.parameters():
                parameter.mul_(4)
    hub.save_pretrained(model, folder)
    return FrozenVQVAE(partial(Path, str(folder)), hub.digest(folder))


def numbers(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(sum(k * 1000**i for i, k in enumerate(key)))


def features(uid: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = numbers(uid, 7)
    return torch.randn(TOKENS, WIDTH, generator=draw).half(), torch.randn(WIDTH, generator=draw).half()


def token_sample(uid: int) -> TokenSample:
    tokens = torch.randint(0, CODES, (LENGTH,), generator=numbers(uid))
    return TokenSample(f"object{uid}", f"{uid:064x}", 0, tokens, *features(uid), 0)


class Codes:
    """The dataset protocol over a few objects."""

    def __init__(self, count: int) -> None:
        self.samples = [token_sample(n) for n in range(count)]
        self.sizes = [1] * count

    def batches(self, order: Order, start: int, rank: int, world: int, prefetch: int) -> Iterator[Any]:
        step = start
        while True:
            chosen = order.batch(step)
            pairs = [(SampleKey(order.seed, step, i), self.samples[int(n)]) for i, n in enumerate(chosen)]
            part = len(pairs) // world
            yield step, pairs[rank * part : (rank + 1) * part]
            step += 1


def make_task(vqvae: FrozenVQVAE, **changes: Any) -> ARTask:
    config = ARTaskConfig(**({"model": SMALL, "lr": 3e-3} | changes))
    shape = model_config(config, "text", vqvae_config(), WIDTH, WIDTH)
    empty = Condition(torch.zeros(1, TOKENS, WIDTH), torch.zeros(1, WIDTH))
    return ARTask(config, shape, vqvae, EncoderSource("minilm", "", "minilm:0"), empty)


def brief(steps: int, batch: int) -> TrainSettings:
    """A training of a second or two, in which a small model learns a few objects by heart."""
    return TrainSettings(
        steps=steps,
        batch=batch,
        ema=0.9,
        optimizer=OptimizerSettings(betas=(0.9, 0.95)),
        schedule=ScheduleSettings(kind="lin0", warmup=10),
        log_every=40,
    )


def batch_of(task: ARTask, count: int = 2, step: int = 0) -> Any:
    return task.collate([token_sample(n) for n in range(count)], step, [SampleKey(0, step, n) for n in range(count)])


def cameras(count: int, elevation: float = 15.0) -> torch.Tensor:
    """(count, 25) around the object."""
    azimuths = np.arange(count) * 360 / count
    pose = look_at(spherical_to_cartesian(1.8, np.full(count, elevation), azimuths))
    lens = np.broadcast_to(intrinsics(39.6), (count, 3, 3))
    return torch.from_numpy(np.concatenate([pose.reshape(count, 16), lens.reshape(count, 9)], 1)).float()


def prompted(vqvae: VQVAE, uid: int, label: str = "", elevation: float = 15.0) -> PromptedObject:
    """An object whose true views are what its codes look like."""
    sample = token_sample(uid)
    assert sample.condition is not None
    assert sample.pooled is not None
    seen = cameras(3, elevation)
    image = FieldRenderer(vqvae, decoded(vqvae, sample.tokens))(seen, 24) * 2 - 1
    blank = torch.zeros(3, 24, 24)
    target = Targets(image, blank, blank, seen)
    return PromptedObject(
        sample.uid, label or f"thing {uid}", sample.tokens, None, sample.condition[None], sample.pooled[None], target
    )
