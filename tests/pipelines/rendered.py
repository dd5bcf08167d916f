"""Views of a few built-in objects and an untrained VQVAE, made once for all tests of the caches."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch

from pipelines.registry import STAGES, load
from pipelines.runtime import runner
from pipelines.runtime.engine import current
from pipelines.runtime.output import Output
from pipelines.runtime.stage import Stage, StageReport
from sar3d.hub import save_pretrained
from sar3d.vqvae.config import PRESETS
from sar3d.vqvae.model import VQVAE

REPOSITORY = Path(__file__).resolve().parents[2]
OBJECTS = 5
RESOLUTION = PRESETS["tiny"].resolution


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sar3d-tests-")


@functools.cache
def model(seed: int = 0) -> Path:
    """The folder of an exported `tiny` VQVAE with random weights."""
    folder = Path(_scratch().name, f"model-{seed}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        save_pretrained(VQVAE(PRESETS["tiny"]), folder)
    return folder


def words(root: Path) -> list[str]:
    """Overrides of configs/demo.yaml."""
    return [
        f"root={root}",
        "tracking.enabled=false",
        f"download.procedural.count={OBJECTS}",
        f"render.resolution={RESOLUTION}",
        "render.views=40",
        "render.backend=raycast",
        "render.shard_objects=2",
        "cache_tokens.shard_objects=2",
        f"cache_tokens.vqvae={model()}",
        "cache_conditions.text=minilm",
        "cache_conditions.image=efficientnet-lite0",
    ]


def configure(root: Path, *overrides: str) -> Any:
    return load(REPOSITORY / "configs" / "demo.yaml", [*words(root), *overrides])


@functools.cache
def root() -> Path:
    """A root with finished `download` and `render` stages of the configuration above; tests may add stages to it."""
    folder = Path(_scratch().name, "root")
    for name in ("download", "render"):
        runner.run(STAGES[name], configure(folder), log=lambda _: None)
    return folder


def run(stage: Stage[Any], config: Any, log: Any = lambda _: None) -> tuple[StageReport, Output]:
    report = runner.run(stage, config, log=log)
    return report, Output(config.root, stage.name, report.fingerprint)


def views(config: Any) -> Output:
    output = current(STAGES["render"], config)
    assert output is not None
    return output


def downloads(config: Any) -> Output:
    output = current(STAGES["download"], config)
    assert output is not None
    return output
