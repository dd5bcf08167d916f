"""A root with everything that `evaluate` reads, made once, and its configurations."""

import functools
import shutil
from pathlib import Path
from typing import Any

import generators
import rendered
from generators import captioner as make_captioner

from pipelines.registry import STAGES
from sar3d import hub

OBJECTS, HELD_OUT = 2, 3


@functools.cache
def root() -> Path:
    """A root of its own with views, tokens, conditions, and a captioner beside them."""
    folder = rendered.root().parent / "evaluation"
    shutil.copytree(rendered.root(), folder, ignore=shutil.ignore_patterns("cache_*"))
    make_captioner(folder.parent / "captioner", hub.digest(rendered.model()))
    for name in ("cache_tokens", "cache_conditions"):
        rendered.run(STAGES[name], rendered.configure(folder, f"{name}.shard_objects=99"))
    return folder


def words() -> list[str]:
    """Overrides of configs/demo.yaml, beside those of `rendered`."""
    bundle = generators.bundle()
    models = [f"generate.{kind}_model={bundle}/ar_{kind}" for kind in ("text", "image")]
    return [
        f"generate.vqvae={bundle}/vqvae",
        *models,
        "evaluate.reconstruction=true",
        "evaluate.captions=true",
        f"caption.captioner={rendered.root().parent}/captioner",
        "caption.decoding={max_new_tokens: 4}",
        f"train_vqvae.data.held_out={HELD_OUT}",
        f"evaluate.objects={OBJECTS}",
        f"evaluate.compared={HELD_OUT}",
        "evaluate.mean_objects=3",
        "evaluate.shard_objects=8",
    ]


def configure(*overrides: str, where: Path | None = None) -> Any:
    return rendered.configure(where or root(), *words(), *overrides)
