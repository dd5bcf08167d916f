"""The views that a training of reconstructions learns from, and the unseen ones that it is measured on."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipelines.runtime.output import Output
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.held_out import HeldOut
from sar3d.data.loading.withheld import Withheld
from sar3d.errors import NothingSelectedError

if TYPE_CHECKING:
    from sar3d.data.datasets.shown import ShownSamples
    from sar3d.data.datasets.view_dataset import ViewDataset


@dataclass(frozen=True)
class Views:
    """Views of a stage as samples for a model of one resolution."""

    rows: Output
    resolution: int
    data: ViewDataConfig
    withheld: Withheld | None
    """Objects that are held out of every training."""

    def train(self) -> "ViewDataset":
        """The samples to train on."""
        return self._dataset(self.data, "train")

    def held_out(self, train: "ViewDataset", count: int) -> "dict[str, ShownSamples]":
        """`views`: unseen views of training objects, where the data hold some out; `objects`: the validating objects.

        Args:
            train: the samples to train on.
            count: objects of each set.
        """
        from sar3d.data.datasets.shown import ShownSamples

        sets = {}
        if self.data.held_out:
            sets["views"] = ShownSamples(train, "held_out", count)
        if self.data.val:
            try:
                validating = self._dataset(_all_views(self.data), "val")
            except NothingSelectedError:  # a small dataset may have no object whose hash falls into the share
                return sets
            sets["objects"] = ShownSamples(validating, "all", count)
        return sets

    def _dataset(self, data: ViewDataConfig, split: Literal["train", "val"]) -> "ViewDataset":
        from sar3d.data.datasets.view_dataset import ViewDataset

        return ViewDataset(self.rows.files(), self.resolution, data, split=split, withheld=self.withheld)


def _all_views(data: ViewDataConfig) -> ViewDataConfig:
    unit: Literal["group", "object"] = "group" if data.unit == "group" else "object"
    return dataclasses.replace(data, unit=unit, supervise=None, held_out=HeldOut())
