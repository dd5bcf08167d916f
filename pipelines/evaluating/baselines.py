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

from pipelines.evaluating.objects import Shares
from pipelines.evaluating.targets import ViewLookup, facing, open_views, view_data
from pipelines.runtime.output import Output
from pipelines.runtime.reading import rows_of
from pipelines.runtime.stage import Context
from pipelines.withheld import withheld_objects
from sar3d.conditions.kinds import ConditionKind
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.datasets.view_dataset import ViewDataset
from sar3d.data.formats.conditions import DTYPE
from sar3d.data.formats.views import split_of
from sar3d.data.loading.view_tensors import Targets
from sar3d.data.loading.withheld import Withheld
from sar3d.errors import UserError
from sar3d.spacing import evenly_spaced

if TYPE_CHECKING:
    from pipelines.evaluate import EvaluateConfig

_COLUMNS = ["uid", "sha256", "kind", "encoder"]


class Baselines:
    """Of one evaluation; each is made when it is first needed, and kept."""

    def __init__(self, context: "Context[EvaluateConfig]") -> None:
        self._context = context
        self._withheld = withheld_objects(context.rows.get("objects_of"))
        self.mean = functools.cache(self._mean)
        self.neighbors = functools.cache(self._neighbors)

    def _mean(self) -> Float[Tensor, "3 H W"]:
        """The mean, in [0, 1], of the first view groups of training objects."""
        config = self._context.config
        val, test = config.shares("reconstruction")
        data = ViewDataConfig(unit="group", normals=False, val=val, test=test, cache_decoded=False)
        dataset = ViewDataset(self._context.rows["views"].files(), None, data, withheld=self._withheld)
        places = evenly_spaced(dataset.first_samples(), config.mean_objects)
        total, pictures = torch.zeros(()), 0
        for sample in dataset.samples(views="all", groups=None, indices=places):
            total, pictures = total + sample.supervision.image.sum(0), pictures + len(sample.supervision.image)
        return (total / pictures + 1) / 2

    def _neighbors(self, kind: ConditionKind, encoder: str) -> "Neighbors":
        config, inputs = self._context.config, self._context.rows
        val, test = shares = config.shares(kind)
        found = _candidates(inputs["conditions"], kind, encoder, shares, config.candidates, self._withheld)
        data = view_data(config.vqvae_data, "heldout", normals=False)
        data = replace(data, val=val, test=test)
        views = open_views(inputs["views"].files(), data, found.uids, "train", self._withheld)
        captions = {}
        if kind == "text":
            captions = {row["uid"]: row["captions"] for row in rows_of(inputs["objects_of"], set(found.uids))}
        # Objects may have conditions though they could not be rendered.
        return Neighbors(found.only(views.places), views, captions)


@dataclass(frozen=True)
class BaselineCandidates:
    """N conditions of training objects."""

    uids: list[str]
    hashes: list[str]
    """Of the objects' content."""
    numbers: list[int]
    """Of the captions; 0 for pictures."""
    features: Float[Tensor, "N C"]
    """Pooled vectors of unit length."""

    def only(self, uids: Container[str]) -> "BaselineCandidates":
        """Those of these objects."""
        keep = [i for i, uid in enumerate(self.uids) if uid in uids]
        return BaselineCandidates(
            uids=[self.uids[i] for i in keep],
            hashes=[self.hashes[i] for i in keep],
            numbers=[self.numbers[i] for i in keep],
            features=self.features[keep],
        )


@dataclass(frozen=True)
class Neighbors:
    """Training objects that can be shown instead of generated ones."""

    candidates: BaselineCandidates
    views: ViewLookup
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


def _candidates(
    conditions: Output, kind: ConditionKind, encoder: str, shares: Shares, count: int, withheld: Withheld | None
) -> BaselineCandidates:
    """All conditions of at most `count` training objects, spread evenly. Raises `UserError` where there are none."""
    known: dict[str, None] = {}
    for _, columns in _row_groups(conditions, _COLUMNS):
        for uid, sha256, of, by in zip(*columns.values(), strict=True):
            if uid and of == kind and by == encoder and uid not in known and split_of(sha256, *shares) == "train":
                known[uid] = None
    if withheld is not None and known:
        apart = withheld.contains(list(known))
        known = {uid: None for uid, out in zip(known, apart, strict=True) if not out}
    if not known:
        raise UserError(
            f"cache_conditions holds no {kind} condition of a training object, so nothing can be retrieved: cache the "
            f"conditions of the training objects, or set evaluate.{kind}=false"
        )
    wanted = set(evenly_spaced(list(known), count))
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
    return BaselineCandidates(names, hashes, numbers, F.normalize(vectors, dim=-1))


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
