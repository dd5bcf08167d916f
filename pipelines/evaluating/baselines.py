"""What a model must beat: the mean picture of training objects, and the training object whose condition is nearest."""

import functools
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipelines.evaluating.objects import Shares, shares_of
from pipelines.evaluating.truth import Views, facing, open_views, view_data
from pipelines.runtime.output import Output
from pipelines.runtime.reading import rows_of
from pipelines.runtime.stage import Context
from sar3d.data.conditions import DTYPE
from sar3d.data.samples import Targets
from sar3d.data.view_config import ViewDataConfig
from sar3d.data.view_dataset import ViewDataset
from sar3d.data.views import split_of
from sar3d.errors import UserError
from sar3d.generate.prompts import Kind

if TYPE_CHECKING:
    from pipelines.evaluate import EvaluateConfig

_COLUMNS = ["uid", "sha256", "kind", "encoder"]


class Baselines:
    """Of one evaluation; each is made when it is first needed, and kept."""

    def __init__(self, context: "Context[EvaluateConfig]") -> None:
        self._context = context
        self.mean = functools.cache(self._mean)
        self.neighbours = functools.cache(self._neighbours)

    def _mean(self) -> Float[Tensor, "3 H W"]:
        """The mean, in [0, 1], of the first view groups of training objects."""
        config = self._context.config
        val, test = shares_of(self._context.everything, "reconstruction")
        data = ViewDataConfig(unit="group", normals=False, val=val, test=test, cache_decoded=False)
        dataset = ViewDataset(self._context.inputs[config.views].files(), None, data)
        first = dataset.first_samples()
        count = min(config.mean_objects, len(first))
        places = [first[i * len(first) // count] for i in range(count)]
        total, pictures = torch.zeros(()), 0
        for sample in dataset.samples(views="all", groups=None, indices=places):
            total, pictures = total + sample.supervision.image.sum(0), pictures + len(sample.supervision.image)
        return (total / pictures + 1) / 2

    def _neighbours(self, kind: Kind, encoder: str) -> "Neighbours":
        config, inputs = self._context.config, self._context.inputs
        val, test = shares = shares_of(self._context.everything, kind)
        found = _candidates(inputs["cache_conditions"], kind, encoder, shares, config.candidates)
        data = view_data(self._context.everything, config.views, "heldout", normals=False)
        views = open_views(inputs[config.views].files(), replace(data, val=val, test=test), found.uids, "train")
        captions = {}
        if kind == "text":
            captions = {row["uid"]: row["captions"] for row in rows_of(inputs["download"], set(found.uids))}
        # Objects may have conditions though they could not be rendered.
        return Neighbours(found.only(views.places), views, captions)


@dataclass(frozen=True)
class Candidates:
    """N conditions of training objects."""

    uids: list[str]
    hashes: list[str]
    """Of the objects' content."""
    numbers: list[int]
    """Of the captions; 0 for pictures."""
    features: Float[Tensor, "N C"]
    """Pooled vectors of unit length."""

    def only(self, uids: Container[str]) -> "Candidates":
        """Those of these objects."""
        keep = [i for i, uid in enumerate(self.uids) if uid in uids]
        return Candidates(
            uids=[self.uids[i] for i in keep],
            hashes=[self.hashes[i] for i in keep],
            numbers=[self.numbers[i] for i in keep],
            features=self.features[keep],
        )


@dataclass(frozen=True)
class Neighbours:
    """Training objects that can be shown instead of generated ones."""

    candidates: Candidates
    views: Views
    captions: dict[str, list[str]]
    """By uid; empty where pictures prompt."""

    def nearest(self, pooled: Float[Tensor, " C"], sha256: str) -> int | None:
        """Place of the condition of greatest cosine, of objects of other content than `sha256`; None if there is none."""
        others = torch.tensor([h != sha256 for h in self.candidates.hashes])
        if not bool(others.any()):
            return None
        # In half precision, as conditions are stored.
        likeness = self.candidates.features @ F.normalize(pooled.cpu().half().float(), dim=-1)
        return int(likeness.masked_fill(~others, -torch.inf).argmax())

    def caption(self, place: int) -> str:
        """The caption that is the condition; empty for a picture."""
        uid = self.candidates.uids[place]
        return self.captions[uid][self.candidates.numbers[place]] if uid in self.captions else ""

    def seen(self, place: int, cameras: Float[Tensor, "V 25"]) -> Targets:
        """The object's true views from the nearest of its cameras to each of V. Raises `ObjectError`."""
        supervision = self.views.sample(self.candidates.uids[place]).supervision
        return supervision.at(facing(supervision.cameras, cameras))


def _candidates(conditions: Output, kind: Kind, encoder: str, shares: Shares, count: int) -> Candidates:
    """All conditions of at most `count` training objects, spread evenly. Raises `UserError` where there are none."""
    known: dict[str, None] = {}
    for _, columns in _row_groups(conditions, _COLUMNS):
        for uid, sha256, of, by in zip(*columns.values(), strict=True):
            if uid and of == kind and by == encoder and uid not in known and split_of(sha256, *shares) == "train":
                known[uid] = None
    if not known:
        raise UserError(
            f"cache_conditions holds no {kind} condition of a training object, so nothing can be retrieved: cache the "
            f"conditions of the training objects, or set evaluate.{kind}=false"
        )
    uids, count = list(known), min(count, len(known))
    wanted = {uids[i * len(uids) // count] for i in range(count)}
    found: list[tuple[str, str, int]] = []
    features = []
    for group, columns in _row_groups(conditions, [*_COLUMNS, "caption_id"]):
        rows = zip(*columns.values(), strict=True)
        keep = [i for i, (uid, _, of, by, _) in enumerate(rows) if uid in wanted and of == kind and by == encoder]
        if keep:
            names, hashes, captions = (columns[name] for name in ("uid", "sha256", "caption_id"))
            found += [(names[i], hashes[i], captions[i] or 0) for i in keep]
            pooled = group.parquet.read_row_group(group.number, ["pooled"])["pooled"].take(keep)
            features += [np.frombuffer(value, DTYPE) for value in pooled.to_pylist()]
    vectors = torch.from_numpy(np.stack(features).astype(np.float32))
    names, hashes, numbers = (list(column) for column in zip(*found, strict=True))
    return Candidates(names, hashes, numbers, F.normalize(vectors, dim=-1))


@dataclass(frozen=True)
class _Group:
    parquet: pq.ParquetFile
    number: int


def _row_groups(output: Output, columns: list[str]) -> Iterator[tuple[_Group, dict[str, list[Any]]]]:
    """Each row group with its narrow columns."""
    for address in output.files():
        with fsspec.open(address, "rb") as file:
            parquet = pq.ParquetFile(file)
            for number in range(parquet.num_row_groups):
                table = parquet.read_row_group(number, columns)
                yield _Group(parquet, number), {name: table[name].to_pylist() for name in columns}
