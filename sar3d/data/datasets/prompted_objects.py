"""A fixed choice of objects that a generator is asked for, each with its prompts and with what it should look like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from jaxtyping import Float, Float16, Int64
from torch import Tensor

from sar3d.data.datasets.token_dataset import TokenDataset, TokenSample
from sar3d.data.datasets.view_dataset import Shown, ViewDataset, ViewSample
from sar3d.data.loading.view_tensors import Targets
from sar3d.spacing import evenly_spaced


@dataclass(frozen=True)
class PromptedObject:
    """One object with P prompts."""

    uid: str
    label: str
    """Its first caption; empty where there is none."""
    tokens: Int64[Tensor, " L"]
    """Of its first view group."""
    pictures: Float[Tensor, "prompts 3 H W"] | None
    """The prompts in [0, 1] on white; None where captions are the prompts."""
    condition: Float16[Tensor, "prompts N Cc"] | None
    """Features of the prompts as they were cached; None where pictures are yet to be encoded."""
    pooled: Float16[Tensor, "prompts Cp"] | None
    target: Targets
    """V views, the same numbers of the camera layout for every object."""


class PromptedObjects(Sequence[PromptedObject]):
    """The first view group of objects, loaded when asked for; picklable.

    Args:
        tokens: codes with conditions, of the objects in `uids`.
        views: views of these objects; where it holds views out, these are the picture prompts.
        uids: the objects; those without tokens or conditions are left out.
        labels: captions by uid.
        prompts: held-out views per object that prompt.
        truth: views that a generated object is compared with.
    """

    def __init__(
        self,
        tokens: TokenDataset,
        views: ViewDataset,
        uids: Sequence[str],
        labels: Mapping[str, str],
        prompts: int = 1,
        target: int = 8,
    ) -> None:
        first: dict[str, TokenSample] = {}
        for sample in tokens.samples(uids=set(uids)):
            first.setdefault(sample.uid, sample)
        self._samples = [first[uid] for uid in uids if uid in first]
        self._views, self._labels = views, dict(labels)
        self._places = dict(zip(object_uids(views), views.first_samples(), strict=True))
        self._pictures = tokens.config.condition == "image"
        self._held_out = bool(views.config.held_out)
        self._prompts, self._target = prompts, target

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> PromptedObject: ...

    @overload
    def __getitem__(self, index: slice) -> list[PromptedObject]: ...

    def __getitem__(self, index: int | slice) -> PromptedObject | list[PromptedObject]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        sample = self._samples[index]
        shown = self._shown(sample.uid, "all")
        pictures = self._prompting(sample, shown) if self._pictures else None
        cached = not (self._pictures and self._held_out) and sample.condition is not None and sample.pooled is not None
        return PromptedObject(
            uid=sample.uid,
            label=self._labels.get(sample.uid, ""),
            tokens=sample.tokens,
            pictures=pictures,
            condition=sample.condition[None] if cached and sample.condition is not None else None,
            pooled=sample.pooled[None] if cached and sample.pooled is not None else None,
            target=shown.supervision.at(_spread(shown.supervision_ids, self._target)),
        )

    def _prompting(self, sample: TokenSample, shown: ViewSample) -> Float[Tensor, "prompts 3 H W"]:
        """Held-out views, or the view whose features were cached."""
        if self._held_out:
            apart = self._shown(sample.uid, "held_out")
            return (apart.supervision.first(self._prompts).image + 1) / 2
        place = shown.supervision_ids.index(sample.condition_id or 0)
        return (shown.supervision.image[place : place + 1] + 1) / 2

    def _shown(self, uid: str, views: Shown) -> ViewSample:
        return next(self._views.samples(views=views, groups=None, indices=[self._places[uid]]))


def object_uids(views: ViewDataset) -> list[str]:
    """The uids of a dataset's objects, in the order of `ViewDataset.first_samples`; no picture is read."""
    found: list[str] = []
    bounds = np.cumsum(views.index.sizes)
    per_row = views.size // len(views.index.rows)
    names: dict[tuple[int, int], list[str]] = {}
    for sample in views.first_samples():
        row = sample // per_row
        place = views.index.blocks[int(np.searchsorted(bounds, row, "right"))]
        key = (int(place[0]), int(place[1]))
        if key not in names:
            names = {key: views.files.read(key, ["uid"]).column("uid").to_pylist()}
        found.append(names[key][int(views.index.rows[row])])
    return found


def spread_objects(views: ViewDataset, limit: int) -> list[str]:
    """Uids of at most `limit` objects, spread evenly over a dataset."""
    return evenly_spaced(object_uids(views), limit)


def _spread(ids: Sequence[int], count: int) -> list[int]:
    """Places of `count` views, spread evenly over ascending view ids."""
    return evenly_spaced(sorted(range(len(ids)), key=lambda i: ids[i]), count)
