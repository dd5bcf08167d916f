"""The objects that the `objects` dataset holds out of every training, for stages that read it."""

import functools

from pipelines.runtime.output import Output
from sar3d.data.loading.withheld import Withheld


def withheld_objects(objects: Output | None) -> Withheld | None:
    """Those of a finished output; None where a stage reads no objects, as views that were imported have none."""
    return None if objects is None else _read(tuple(objects.files()))


@functools.lru_cache(4)
def _read(files: tuple[str, ...]) -> Withheld:
    return Withheld.read(files)
