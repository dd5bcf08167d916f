"""Captions from a file of their own, joined to listed objects by uid."""

import csv
import io
import itertools
import json
import operator
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from pipelines.runtime.inputs import driver_file
from pipelines.sources.base import Item, Source
from sar3d.errors import UserError

_UID_NAMES = ("uid", "obj_id", "object_id", "id")
_CAPTION_NAMES = ("caption", "captions", "3dtopia", "text")
_SCHEMA = pa.schema([("uid", pa.large_string()), ("caption", pa.large_string())])


@dataclass(frozen=True)
class CaptionsConfig:
    """Captions published apart from the objects."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    path: str | None = driver_file(None)
    """A local file or fsspec URL: .csv, .json (either may end in .gz) or .parquet; none by default.

    CSV and Parquet: one row per caption, columns uid (or obj_id, object_id, id) and caption (or captions, 3dtopia,
    text); a CSV without a header, as Cap3D publishes it, has the uid and the caption in its first two columns. JSON:
    a list of objects with those keys, as 3DTopia publishes it, or a dictionary from uid to a caption or a list.
    """


class CaptionedSource(Source):
    """A source whose objects take captions from a caption file, after those of their own."""

    captions: CaptionsConfig

    @abstractmethod
    def listing(self) -> Iterator[Item]:
        """The objects in ascending order of uid, with no captions but their own."""

    def items(self) -> Iterator[Item]:
        if self.captions.path is None:
            return self.listing()
        return with_captions(self.listing(), read_captions(self.captions.path))


def with_captions(items: Iterator[Item], table: pa.Table) -> Iterator[Item]:
    """Append to each item's captions those of the table; both are in ascending order of uid.

    The order within an object is kept, repeated captions are dropped, captions of other objects are ignored.
    """
    groups = itertools.groupby(_pairs(table), key=operator.itemgetter(0))
    uid, captions = next(groups, (None, iter(())))
    for item in items:
        while uid is not None and uid < item["uid"]:
            uid, captions = next(groups, (None, iter(())))
        if uid == item["uid"]:
            item = item | {"captions": list(dict.fromkeys([*item["captions"], *(text for _, text in captions)]))}
        yield item


def _pairs(table: pa.Table) -> Iterator[tuple[str, str]]:
    for batch in table.to_batches(max_chunksize=8192):
        yield from zip(batch.column("uid").to_pylist(), batch.column("caption").to_pylist(), strict=True)


def read_captions(path: str) -> pa.Table:
    """All captions of a file: columns uid and caption (strings, none empty), in ascending order of uid.

    Raises `UserError` if the file is missing, does not parse or has no such columns.
    """
    suffixes = [s.lower() for s in PurePosixPath(path).suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    read = {".csv": _read_csv, ".json": _read_json, ".parquet": _read_parquet}.get(kind)
    if read is None:
        raise UserError(f"download.captions.path is {path!r}: give a .csv, .json or .parquet file")
    try:
        with fsspec.open(path, "rb", compression="infer") as file:
            table = read(file)
    except FileNotFoundError as error:
        raise UserError(f"the caption file {path} does not exist; check download.captions.path") from error
    except (OSError, EOFError, ValueError, KeyError) as error:
        # pyarrow's errors are ValueErrors, those of JSON and of the text encoding too.
        raise UserError(f"the caption file {path} cannot be read: {' '.join(str(error).split())}") from error
    return _sorted(table)


def _sorted(table: pa.Table) -> pa.Table:
    table = pa.table({name: pa.compute.utf8_trim_whitespace(table[name]) for name in _SCHEMA.names})
    lengths = [pa.compute.greater(pa.compute.binary_length(table[name]), 0) for name in _SCHEMA.names]
    table = table.filter(pa.compute.and_(*lengths))
    # The row number makes the sort stable: the order of an object's captions is the file's.
    table = table.append_column("row", pa.array(np.arange(len(table))))
    return table.sort_by([("uid", "ascending"), ("row", "ascending")]).select(_SCHEMA.names)


def _read_csv(file: Any) -> pa.Table:
    data = file.read().removeprefix(b"\xef\xbb\xbf")
    first = next(csv.reader(io.StringIO(data[:65536].decode("utf-8", "replace"), newline="")), [])
    names = [cell.strip().lower() for cell in first]
    headed = any(n in names for n in _UID_NAMES) and any(n in names for n in _CAPTION_NAMES)
    if not headed and len(first) < 2:
        raise ValueError("its first line has less than the two columns uid and caption")
    columns = names if headed else ["uid", "caption", *(f"column {i}" for i in range(2, len(first)))]
    uid, caption = _columns(columns)
    table = pyarrow.csv.read_csv(
        pa.BufferReader(data),
        pyarrow.csv.ReadOptions(column_names=columns, skip_rows=int(headed)),
        pyarrow.csv.ParseOptions(newlines_in_values=True),
        pyarrow.csv.ConvertOptions(
            column_types={uid: pa.large_string(), caption: pa.large_string()}, include_columns=[uid, caption]
        ),
    )
    return table.rename_columns(_SCHEMA.names)


def _read_parquet(file: Any) -> pa.Table:
    parquet = pyarrow.parquet.ParquetFile(file)
    uid, caption = _columns(parquet.schema_arrow.names)
    table = parquet.read([uid, caption]).select([uid, caption]).rename_columns(_SCHEMA.names)
    if pa.types.is_list(table["caption"].type) or pa.types.is_large_list(table["caption"].type):
        rows = pa.compute.list_parent_indices(table["caption"].combine_chunks())
        table = pa.table({"uid": table["uid"].take(rows), "caption": pa.compute.list_flatten(table["caption"])})
    return table.cast(_SCHEMA)


def _read_json(file: Any) -> pa.Table:
    data = json.loads(file.read())
    entries: Iterable[tuple[Any, Any]]
    if isinstance(data, dict):
        entries = data.items()
    elif isinstance(data, list) and all(isinstance(entry, dict) for entry in data):
        uid, caption = _columns(list(data[0]) if data else list(_SCHEMA.names))
        entries = ((entry[uid], entry.get(caption)) for entry in data)
    else:
        raise ValueError("it is neither a dictionary from uid to captions nor a list of objects")
    pairs = [(str(uid), text) for uid, texts in entries for text in _texts(texts)]
    uids, texts = zip(*pairs, strict=True) if pairs else ((), ())
    return pa.table([uids, texts], schema=_SCHEMA)


def _texts(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"a caption is not a string: {value!r:.80}")
    return texts


def _columns(names: list[str]) -> tuple[str, str]:
    found = [next((n for n in known if n in names), None) for known in (_UID_NAMES, _CAPTION_NAMES)]
    uid, caption = found
    if uid is None or caption is None:
        raise ValueError(f"it has no columns uid and caption but {', '.join(names)}")
    return uid, caption
