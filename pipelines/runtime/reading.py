"""Rows of a finished output, streamed."""

from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow.parquet as pq

from pipelines.runtime.output import Output


def read_rows(output: Output, columns: list[str] | None = None, batch: int = 4096) -> Iterator[dict[str, Any]]:
    """Every committed row in the order of the shards; memory holds one batch at a time."""
    for address in output.files():
        with fsspec.open(address, "rb") as file:
            for rows in pq.ParquetFile(file).iter_batches(batch, columns=columns):
                yield from rows.to_pylist()
