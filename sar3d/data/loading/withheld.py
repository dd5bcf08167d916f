"""Objects that no training reads, as the column `held_out` of the `objects` dataset says."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from sar3d.data.loading.condition_index import name_hashes
from sar3d.data.loading.row_groups import ParquetFiles

_COLUMN = "held_out"


@dataclass(frozen=True)
class Withheld:
    """A set of objects, 8 bytes each; picklable."""

    hashes: NDArray[np.uint64]
    """(N,) of their uids, ascending."""

    @staticmethod
    def of(uids: Sequence[str]) -> "Withheld":
        return Withheld(np.unique(name_hashes(uids, None)))

    @staticmethod
    def read(files: Sequence[str | os.PathLike[str]]) -> "Withheld":
        """Those of the objects dataset in these Parquet files; of one without the column, none."""
        parquet = ParquetFiles(files)
        found = [np.empty(0, np.uint64)]
        for file in range(len(parquet.files)):
            if _COLUMN not in parquet.schema(file).names:
                continue
            for group in range(parquet.footer(file).num_row_groups):
                table = parquet.read((file, group), ["uid", _COLUMN])
                uids = table.filter(pc.is_valid(table.column(_COLUMN))).column("uid").to_pylist()
                found.append(name_hashes(uids, None))
        return Withheld(np.unique(np.concatenate(found)))

    def __len__(self) -> int:
        return len(self.hashes)

    def contains(self, uids: Sequence[str]) -> NDArray[np.bool_]:
        """(N,) whether each object is one of them."""
        return np.isin(name_hashes(uids, None), self.hashes)
