"""The `views` dataset as the input of another data stage: the objects it holds, and their rows."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.runtime.output import Output
from pipelines.runtime.plan import Item
from sar3d.errors import UserError


def view_items(views: Output) -> Iterator[Item]:
    """One item per object and file, in the order of the files, so that a shard of items lies together.

    `uid` is the object's, with the first group appended where that is not 0: the chunks of one imported object may lie
    in several files. `views` is the digest of the file, by which the item changes when the pictures do.
    """
    for shard in (views.manifest() or {})["shards"]:
        address = views.store.address(shard["path"])
        with fsspec.open(address, "rb") as file:
            table = pq.read_table(file, columns=["uid", "group"])
        names = zip(table["uid"].to_pylist(), table["group"].to_pylist(), itertools.count(), strict=False)
        for uid, rows in itertools.groupby(names, key=lambda name: name[0]):
            members = list(rows)
            first = members[0][1]
            yield {
                "uid": f"{uid}:{first}" if first else uid,
                "views": shard["sha256"],
                "_file": address,
                "_rows": [members[0][2], len(members)],
            }


def view_metadata(views: Output) -> dict[str, str]:
    """The schema metadata of a views output; empty if it has no shard."""
    files = views.files()
    if not files:
        return {}
    with fsspec.open(files[0], "rb") as file:
        metadata = pq.read_schema(file).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}


def read_objects(items: Iterable[Item], columns: Sequence[str]) -> Iterator[tuple[Item, pa.Table]]:
    """Each item with its rows, in order, as a table whose columns are single chunks; holds about one row group.

    Raises:
        UserError: a file cannot be read.
    """
    for address, members in itertools.groupby(items, key=lambda item: item["_file"]):
        try:
            with fsspec.open(address, "rb") as file:
                yield from _read(pq.ParquetFile(file), members, list(columns))
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"the views in {address} cannot be read ({error}): run the stage that made them") from error


def _read(parquet: pq.ParquetFile, items: Iterable[Item], columns: list[str]) -> Iterator[tuple[Item, pa.Table]]:
    meta = parquet.metadata
    ends = np.cumsum([meta.row_group(i).num_rows for i in range(meta.num_row_groups)])
    held, rows = -1, pa.table({})
    for item in items:
        place, count = item["_rows"]
        parts = []
        while count:
            group = int(np.searchsorted(ends, place, side="right"))
            if group != held:
                held, rows = group, parquet.read_row_group(group, columns, use_threads=False)
            part = rows.slice(place - (int(ends[group]) - len(rows)), count)
            parts.append(part)
            place, count = place + len(part), count - len(part)
        yield item, pa.concat_tables(parts).combine_chunks()
