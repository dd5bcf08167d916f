"""A fixed choice of a view dataset's samples to judge a model by: a sequence that loads what it is asked for."""

from collections.abc import Sequence
from typing import overload

from sar3d.data.datasets.view_dataset import Shown, ViewDataset, ViewSample
from sar3d.spacing import evenly_spaced


class ShownSamples(Sequence[ViewSample]):
    """The first view group of each object that has such views; picklable.

    Args:
        dataset: where the samples come from.
        views: which views stand in a sample's supervision, see `ViewDataset.samples`.
        limit: objects at most, spread evenly over the dataset.
    """

    def __init__(self, dataset: ViewDataset, views: Shown, limit: int) -> None:
        self._dataset = dataset
        self._views: Shown = views
        self._indices = evenly_spaced(dataset.first_samples(views), limit)

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> ViewSample: ...

    @overload
    def __getitem__(self, index: slice) -> list[ViewSample]: ...

    def __getitem__(self, index: int | slice) -> ViewSample | list[ViewSample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        wanted = [self._indices[index]]
        return next(self._dataset.samples(views=self._views, groups=None, indices=wanted))
