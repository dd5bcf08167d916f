"""Captions and views to conditions: batches of one shape through loaded encoders, prepared meanwhile."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.caching.batches import in_batches
from pipelines.caching.devices import begin_worker, exact, helpers
from pipelines.caching.view_objects import read_objects
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Row
from sar3d.conditions import ConditionEncoder, load_encoder
from sar3d.conditions.base import white
from sar3d.conditions.kinds import ConditionKind
from sar3d.data.formats.conditions import condition_row
from sar3d.data.formats.png_decode import read_png
from sar3d.errors import ObjectError
from sar3d.prefetch import mapped
from sar3d.vqvae.config import EncoderConfig

CUDA_BATCH = 64
IMAGE_COLUMNS = ("uid", "sha256", "group", "view_ids", "rgb")
EMPTY_INDEX = -1
"""Caption number or view id of an empty condition."""

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ConditionEncoderWorker:
    """Loaded encoders by kind, and how they are run."""

    encoders: dict[str, ConditionEncoder]
    device: torch.device
    batch: int
    helpers: int
    """Threads that decode pictures while an encoder computes."""
    image_views: int = 1
    """Views of every view group that are encoded."""

    @property
    def ids(self) -> dict[str, str]:
        """Ids of the encoders by kind."""
        return {kind: encoder.id for kind, encoder in self.encoders.items()}


@dataclass(frozen=True)
class Label:
    """What a row says besides its features."""

    uid: str
    sha256: str
    kind: ConditionKind
    index: int
    group: int | None = None


@dataclass(frozen=True)
class Conditioned:
    """The rows of one item, or why there are none."""

    item: Item
    labels: list[Label]
    rows: list[Row] = field(default_factory=list)
    error: ObjectError | None = None


def open_condition_encoder(
    encoders: dict[str, tuple[str, str]], gpus: float, cpus: float, batch: int | None, image_views: int = 1
) -> ConditionEncoderWorker:
    """Load encoders, given by kind as name and weights, in this process.

    Raises:
        UserError: weights are missing, or there is no GPU where one is asked for.
    """
    device = begin_worker(gpus, cpus)
    loaded = {
        kind: load_encoder(name, weights, device, f"cache_conditions.{kind}_weights")
        for kind, (name, weights) in encoders.items()
    }
    return ConditionEncoderWorker(
        loaded, device, batch or (CUDA_BATCH if device.type == "cuda" else 1), helpers(device, cpus), image_views
    )


def encode_items(worker: ConditionEncoderWorker, items: list[Item]) -> Iterator[Conditioned]:
    """The rows of every item, in order: captions, the published view of each view group, or an empty condition.

    A condition does not depend on the ones beside it, see `in_batches`.
    """
    for kind, members in groupby(items, key=lambda item: str(item["kind"])):
        encoder = worker.encoders[kind.removeprefix("empty ")]
        if kind == "image":
            work = partial(_prepared_views, encoder, worker.image_views)
            loaded = mapped(work, read_objects(members, IMAGE_COLUMNS), worker.helpers)
        elif kind == "text":
            # A tokenizer is not made for several threads.
            loaded = (_prepared_captions(encoder, item) for item in members)
        else:
            loaded = (_prepared_empty(encoder, item) for item in members)
        depth = 2 if worker.helpers else 0
        for made, features in in_batches(loaded, worker.batch, torch.cat, partial(_run, encoder), depth):
            yield _with_rows(made, encoder, features)


def _prepared_captions(encoder: ConditionEncoder, item: Item) -> tuple[Conditioned, list[Tensor]]:
    uid = item["uid"].removesuffix("/text")
    labels = [Label(uid, item["sha256"], "text", i) for i in range(len(item["captions"]))]
    return Conditioned(item, labels), [encoder.prepare([caption]) for caption in item["captions"]]


def _prepared_empty(encoder: ConditionEncoder, item: Item) -> tuple[Conditioned, list[Tensor]]:
    label = Label("", "", encoder.kind, EMPTY_INDEX)
    return Conditioned(item, [label]), [encoder.prepare([""] if encoder.kind == "text" else white())]


def _prepared_views(encoder: ConditionEncoder, views: int, entry: tuple[Item, Any]) -> tuple[Conditioned, list[Tensor]]:
    item, table = entry
    labels, prepared = [], []
    try:
        for row in table.to_pylist():
            for place in condition_views(row["group"], views):
                if place >= len(row["view_ids"]):
                    raise ObjectError("too_few_views", f"view group {row['group']} has {len(row['view_ids'])} views.")
                labels.append(Label(row["uid"], row["sha256"], "image", row["view_ids"][place], row["group"]))
                prepared.append(encoder.prepare(_picture(row, place)[None]))
    except ObjectError as error:
        return Conditioned(item, [], error=error), []
    return Conditioned(item, labels), prepared


def condition_view(group: int) -> int:
    """Which view of a group is its picture: one of the first half, never view 0, which is a pole (published.md, data)."""
    return group % 4 + 1


def condition_views(group: int, count: int) -> list[int]:
    """Views of a group that are encoded: `condition_view`, then those that follow it in the first half, view 0 apart."""
    others = EncoderConfig.views - 1
    return [(condition_view(group) - 1 + i) % others + 1 for i in range(count)]


def _picture(row: Row, place: int) -> NDArray[np.uint8]:
    try:
        pixels, _ = read_png(row["rgb"][place])
    except ValueError as error:
        raise ObjectError(
            "bad_row", f"view {place} of group {row['group']} of {row['uid']} is broken: {error}."
        ) from error
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise ObjectError("bad_row", f"view {place} of group {row['group']} of {row['uid']} is no color picture.")
    return pixels.astype(np.uint8, copy=False)


def _run(encoder: ConditionEncoder, prepared: Tensor) -> list[tuple[Array, Array]]:
    with exact():
        features = encoder.run(prepared)
    return list(zip(features.tokens.cpu().numpy(), features.pooled.cpu().numpy(), strict=True))


def _with_rows(made: Conditioned, encoder: ConditionEncoder, features: Iterable[tuple[Array, Array]]) -> Conditioned:
    try:
        rows = [
            condition_row(
                uid=label.uid,
                sha256=label.sha256,
                kind=label.kind,
                encoder=encoder.id,
                index=label.index,
                tokens=tokens,
                pooled=pooled,
                group=label.group,
            )
            for label, (tokens, pooled) in zip(made.labels, features, strict=True)
        ]
    except ObjectError as error:
        return replace(made, error=error)
    return replace(made, rows=rows)
