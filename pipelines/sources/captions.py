"""Captions from a file of their own, joined to listed objects by uid or by the name of their file."""

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from pipelines.runtime.inputs import driver_file
from pipelines.runtime.progress import log
from pipelines.sources.base import Item, Source
from pipelines.sources.company import SUFFIXES
from pipelines.sources.texts import Log, decoded, header, separated
from sar3d.errors import UserError

_UID_NAMES = ("uid", "obj_id", "object_id", "modelid", "model_id", "id", "file", "filename", "file_name", "path")
_CAPTION_NAMES = ("caption", "captions", "3dtopia", "text", "description")
_KNOWN = (_UID_NAMES, _CAPTION_NAMES)
_SCHEMA = pa.schema([("uid", pa.large_string()), ("caption", pa.large_string())])
NAMES = "_names"
"""Key of an item: what captions may call it beside its uid, the surest first. It does not outlive the join."""


@dataclass(frozen=True)
class CaptionsConfig:
    """Captions published apart from the objects."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    path: str | None = driver_file(None)
    """A local file or fsspec URL: .csv, .tsv, .txt, .json, .jsonl (all may end in .gz) or .parquet; none by default.

    Tables: one row per caption, columns uid (or obj_id, object_id, modelid, id, file, path) and caption (or captions,
    3dtopia, text, description), with commas, semicolons, tabs or bars between; one without a header, as Cap3D
    publishes it, has the uid and the caption in its first two columns. JSON: a list of objects with those keys, as
    3DTopia publishes it, or a dictionary from uid to a caption or a list. In UTF-8, UTF-16 or Windows-1252.

    What stands for the uid may also be a file's path, name or stem, and for a folder's objects the name of one of the
    folders above it, where that belongs to one object alone.
    """


class CaptionedSource(Source):
    """A source whose objects take captions from a caption file, after those of their own."""

    captions: CaptionsConfig
    log: Log = staticmethod(log)
    """Takes a line for whoever runs the program."""

    @abstractmethod
    def listing(self) -> Iterator[Item]:
        """The objects in ascending order of uid, with no captions but their own; `NAMES` where others are joined."""

    def items(self) -> Iterator[Item]:
        path = self.captions.path
        if path is None:
            return self.listing()
        return with_captions(self.listing(), Captions(read_captions(path, self.log)), path, self.log)


def with_captions(items: Iterator[Item], captions: "Captions", path: str, log: Log) -> Iterator[Item]:
    """Append to each item's captions those of a file; at the end say in one line what met and what did not.

    The order within an object is kept, repeated captions are dropped.
    """
    lacking, example, total = 0, "", 0
    for item in items:
        names = item.pop(NAMES, ())
        found = captions.of((item["uid"], *names))
        item = item | {"captions": list(dict.fromkeys([*item["captions"], *found]))}
        total += 1
        if not item["captions"]:
            lacking += 1
            example = example or str(item.get("path") or item["uid"])
        yield item
    log(_account(captions, path, total, lacking, example))


def _account(captions: "Captions", path: str, total: int, lacking: int, example: str) -> str:
    """How a file of captions and a listing met."""
    kinds = captions.used
    used, unused = int(kinds.sum()), np.flatnonzero(~kinds)
    line = f"captions of {PurePosixPath(path).name}: {used:,} of its {len(kinds):,} names are those of objects"
    if len(unused):
        line += f", {len(unused):,} are not (such as {captions.name(int(unused[0]))!r})"
    line += f"; {lacking:,} of {total:,} objects have no caption" + (f" (such as {example})" if lacking else "")
    if not used and len(kinds):
        line += "; an object's name is its uid, its path or its file's name: give the uids in a manifest"
    return line


class Captions:
    """Captions by the name of their object: its uid, or a path whose last part without suffix may be it."""

    def __init__(self, table: pa.Table) -> None:
        """`table` as `read_captions` gives it."""
        names = table["uid"].combine_chunks()
        self._texts = table["caption"].combine_chunks()
        begins = pa.compute.not_equal(names.slice(1), names.slice(0, max(len(names) - 1, 0)))
        starts = np.flatnonzero(np.concatenate([[True] * bool(len(names)), begins.to_numpy(zero_copy_only=False)]))
        self._starts: NDArray[np.intp] = np.append(starts, len(names))
        self._names = names.take(pa.array(starts))
        self._places = {name: i for i, name in enumerate(self._names.to_pylist())}
        self.used: NDArray[np.bool_] = np.zeros(len(starts), bool)
        """By name: whether it was that of an object."""
        for stem, places in self._stems().items():
            if len(places) == 1:
                self._places.setdefault(stem, places[0])

    def _stems(self) -> dict[str, list[int]]:
        """Of names that are those of 3D files: file name and stem, and the names that they are of."""
        found: dict[str, list[int]] = {}
        for name, place in self._places.items():
            file = name.replace("\\", "/")
            if file.lower().endswith(SUFFIXES):
                for part in {file, PurePosixPath(file).name, PurePosixPath(file).stem}:
                    found.setdefault(part, []).append(place)
        return found

    def name(self, place: int) -> str:
        return str(self._names[place].as_py())

    def of(self, names: Iterable[str]) -> list[str]:
        """The captions of the first of an object's names that has any."""
        for name in names:
            if (place := self._places.get(name)) is not None:
                self.used[place] = True
                start, end = self._starts[place : place + 2]
                return [str(text) for text in self._texts[int(start) : int(end)].to_pylist()]
        return []


def names_in(paths: Sequence[str]) -> list[tuple[str, ...]]:
    """What captions may call the objects at these paths: the path, it without suffix, and every part of it, the last
    first, that belongs to one object alone (one object may lie there in several formats)."""
    parts = [(path, *PurePosixPath(path).parts[::-1]) for path in paths]
    stems = [str(PurePosixPath(path).with_suffix("")) for path in paths]
    owners: dict[str, str] = {}
    for stem, own in zip(stems, parts, strict=True):
        for part in {*own[1:], PurePosixPath(stem).name}:
            owners[part] = stem if owners.get(part, stem) == stem else ""
    return [
        (path, stem, *(part for part in (PurePosixPath(stem).name, *own[1:]) if owners[part]))
        for path, stem, own in zip(paths, stems, parts, strict=True)
    ]


def read_captions(path: str, log: Log) -> pa.Table:
    """All captions of a file: columns uid and caption (strings, none empty), in ascending order of uid.

    Raises `UserError` if the file is missing, does not parse or has no such columns.
    """
    suffixes = [s.lower() for s in PurePosixPath(path).suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    readers = {".json": _json, ".jsonl": _json_lines, ".csv": _csv, ".tsv": _csv, ".txt": _csv}
    if kind not in (*readers, ".parquet"):
        known = ", ".join(readers)
        raise UserError(f"download.captions.path is {path!r}: give a file of one of the kinds {known} or .parquet")
    try:
        with fsspec.open(path, "rb", compression="infer") as file:
            table = _parquet(file) if kind == ".parquet" else readers[kind](decoded(file.read(), path, log))
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


def _csv(text: str) -> pa.Table:
    separator, text = separated(text, _KNOWN)
    names = header(text, separator)
    headed = all(any(name in names for name in group) for group in _KNOWN)
    if not headed and len(names) < 2:
        raise ValueError("its first line has less than the two columns uid and caption")
    columns = names if headed else ["uid", "caption", *(f"column {i}" for i in range(2, len(names)))]
    uid, caption = _columns(columns)
    table = pyarrow.csv.read_csv(
        pa.BufferReader(text.encode()),
        pyarrow.csv.ReadOptions(column_names=columns, skip_rows=int(headed)),
        pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        pyarrow.csv.ConvertOptions(
            column_types={uid: pa.large_string(), caption: pa.large_string()}, include_columns=[uid, caption]
        ),
    )
    return table.rename_columns(_SCHEMA.names)


def _parquet(file: Any) -> pa.Table:
    parquet = pyarrow.parquet.ParquetFile(file)
    uid, caption = _columns(parquet.schema_arrow.names)
    table = parquet.read([uid, caption]).select([uid, caption]).rename_columns(_SCHEMA.names)
    if pa.types.is_list(table["caption"].type) or pa.types.is_large_list(table["caption"].type):
        rows = pa.compute.list_parent_indices(table["caption"].combine_chunks())
        table = pa.table({"uid": table["uid"].take(rows), "caption": pa.compute.list_flatten(table["caption"])})
    return table.cast(_SCHEMA)


def _json(text: str) -> pa.Table:
    return _entries(json.loads(text))


def _json_lines(text: str) -> pa.Table:
    return _entries([json.loads(line) for line in text.splitlines() if line.strip()])


def _entries(data: Any) -> pa.Table:
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
