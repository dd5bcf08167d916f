"""Rows of a finished output, streamed, or a few of them by uid."""

from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.runtime.output import Output


def read_rows(output: Output, columns: list[str] | None = None, batch: int = 4096) -> Iterator[dict[str, Any]]:
    """Every committed row in the order of the shards; memory holds one batch at a time."""
    for address in output.files():
        with fsspec.open(address, "rb") as file:
            for rows in pq.ParquetFile(file).iter_batches(batch, columns=columns):
                yield from rows.to_pylist()


def rows_of(output: Output, uids: set[str]) -> Iterator[dict[str, Any]]:
    """Every row whose uid is among `uids`, in the order of the shards; of other rows nothing but the uid is read."""
    wanted = pa.array(sorted(uids), pa.string())
    for address in output.files():
        with fsspec.open(address, "rb") as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                names = parquet.read_row_group(group, ["uid"])["uid"]
                places = np.flatnonzero(pc.is_in(names, wanted).to_numpy(zero_copy_only=False))
                if len(places):
                    yield from parquet.read_row_group(group).take(places).to_pylist()
