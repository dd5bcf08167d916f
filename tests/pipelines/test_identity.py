"""Every setting either decides an output's fingerprint or stands here with the reason why it changes nothing."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rendered

from pipelines.registry import STAGES
from pipelines.runtime import runner
from pipelines.runtime.output import Output
from pipelines.runtime.reading import read_rows

REASONS = {
    "how much hardware works on it": {"workers", "cpus", "gpus", "memory", "device", "max_failures"},
    "how the work is cut; rows and gradients do not depend on it": {
        "shard_objects", "batch", "micro_batch", "zero", "chunk", "concurrency", "recycle_after", "attention",
        "checkpoint_activations",
    },
    "caches and threads": {
        "cache_decoded", "cache_bytes", "keep_bytes", "threads", "data_threads", "prefetch", "cache",
    },
    "a training goes on where it stopped": {"steps", "checkpoint_every", "keep_checkpoints"},
    "what is measured and drawn of a training, not what it learns": {
        "log_every", "evaluate_every", "draw_every", "evaluate_objects", "evaluate_prompts", "draw_objects",
        "train_ar.task.decoding", "train_ar_image.task.decoding", "train_llm.task.decoding",
        "train_llm_projector.task.decoding",
    },
    "when a training stops, not what one learns that goes on": {"guard"},
    "a limit that turns an object into a failure, which `retry` tries again": {"object_seconds", "object_memory"},
    "where objects are fetched from; their content counts": {
        "mirror", "transfer", "render.source", "evaluate.source", "compare.source",
    },
    "counted by the setting beside it, settled for the machine": {
        "train_vqvae.task.perceptual", "train_flexicubes.task.perceptual",
    },
    "where a language model answers; its name counts": {"judge.url", "judge.seconds", "judge.attempts"},
    "files beside the rows": {"unpack"},
}  # fmt: skip
"""Names of settings, or their paths where only that one is meant."""
LISTED = {
    "categories", "licences", "uids_file", "count", "seed", "all", "manifest", "captions.path", "prompts", "kinds", "objects",
    "procedural.held_out",
}  # fmt: skip
"""Settings that decide which items there are; each item counts by itself."""


def exceptions(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Path and metadata of each field of a section that is not in the identity."""
    for field in dataclasses.fields(value):
        here, content = f"{path}.{field.name}", getattr(value, field.name)
        counts = field.metadata.get("identity", True)
        if counts in (False, "listing"):
            yield here, field.metadata
        elif dataclasses.is_dataclass(content):
            yield from exceptions(content, here)


def matches(path: str, names: set[str]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in names)


@pytest.mark.parametrize("name", STAGES)
def test_what_leaves_the_fingerprint_alone_has_a_reason(name: str) -> None:
    section = rendered.configure(Path("/none")).section(STAGES[name])
    for path, metadata in exceptions(section, name):
        if metadata["identity"] == "listing":
            # A model, a folder or weights count by their content; what is selected counts item by item.
            assert metadata.get("place") or matches(path, LISTED), path
        else:
            assert any(matches(path, names) for names in REASONS.values()), f"{path} is in no fingerprint: why?"


def rows(stage: str, config: Any) -> list[dict[str, Any]]:
    report = runner.run(STAGES[stage], config, log=lambda _: None)
    found = read_rows(Output(config.root, stage, report.fingerprint))
    return sorted(found, key=lambda row: tuple(str(row.get(key)) for key in ("uid", "kind", "group", "view_id")))


def test_such_settings_change_no_row(local_ray: Any, tmp_path: Path) -> None:
    """The trainings' are compared in tests/pipelines/training: workers, ZeRO, micro-batches, resuming."""
    cut = {
        "download": ["workers=1", "cpus=0.5", "shard_objects=4", "concurrency=2"],
        "render": ["workers=1", "cpus=0.5", "shard_objects=3", "recycle_after=2", "object_seconds=90"],
        "cache_tokens": ["workers=1", "cpus=2", "shard_objects=5", "batch=3", "device=cpu"],
        "cache_conditions": ["workers=1", "cpus=2", "shard_objects=3", "batch=2", "device=cpu"],
    }
    usual = rendered.configure(rendered.root())
    other = rendered.configure(tmp_path, *(f"{stage}.{word}" for stage, words in cut.items() for word in words))
    for stage in cut:
        made, expected = rows(stage, other), rows(stage, usual)
        for row, known in zip(made, expected, strict=True):
            for name in ("tokens", "pooled") if stage == "cache_conditions" else ():
                # Threads and batches change the order of float32 sums, which shows in the last bit of half precision.
                a, b = (np.frombuffer(r.pop(name), "<f2").astype(float) for r in (row, known))
                np.testing.assert_allclose(a, b, atol=4e-3)
            assert row == known, stage
