"""Manifests: what a person says about the files of a folder, in JSON, CSV or Parquet."""

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from pipelines.sources.texts import Log, decoded, separated
from sar3d.errors import UserError

SUFFIXES = (".json", ".csv", ".parquet")
_FILE_NAMES = ("file", "path")
_COLUMNS: tuple[str, ...] = (
    *_FILE_NAMES,
    "uid",
    "name",
    "category",
    "caption",
    "captions",
    "tags",
    "licence",
    "license",
)
_COLUMNS += ("author", "source", "sha256")


@dataclass(frozen=True)
class Entry:
    """One row of a manifest. What the row does not say is empty."""

    file: str
    """Relative to the folder, with forward slashes."""
    uid: str = ""
    name: str = ""
    category: str = ""
    captions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    licence: str = ""
    author: str = ""
    source: str = ""
    sha256: str = ""
    """Lower-case hex; checked when the file is fetched."""


def parse_manifest(data: bytes, name: str, log: Log) -> list[Entry]:
    """The rows of a manifest whose format is told by the end of `name`. Columns of other names are ignored.

    JSON: a list of objects, or a dictionary with such a list under `objects`. Lists (captions, tags) may be lists in
    JSON and Parquet; in CSV, `captions` and `tags` are a JSON list or text parted by semicolons, while `caption` is
    always one plain text. Raises `UserError` if it does not parse, names no file or names one uid twice.
    """
    suffix = PurePosixPath(name).suffix.lower()
    try:
        rows = _parquet(data) if suffix == ".parquet" else _READERS[suffix](decoded(data, name, log))
        entries = [_entry(row, number, name) for number, row in enumerate(rows, 1)]
    except (ValueError, pa.ArrowException, csv.Error) as error:
        raise UserError(f"the manifest {name} cannot be read ({' '.join(str(error).split())}); correct it") from error
    seen: set[str] = set()
    for uid in (entry.uid for entry in entries if entry.uid):
        if uid in seen:
            raise UserError(f"the manifest {name} gives the uid {uid!r} to more than one file; uids must differ")
        seen.add(uid)
    return entries


def _json(text: str) -> list[dict[str, Any]]:
    value = json.loads(text)
    rows = value.get("objects") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError('it is neither a list of objects nor {"objects": [...]}')
    return rows


def _csv(text: str) -> list[dict[str, Any]]:
    separator, text = separated(text, (_FILE_NAMES,))
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    rows: list[dict[str, Any]] = []
    for row in reader:
        if None in row:
            raise ValueError(f"line {reader.line_num} has more cells than the header")
        rows.append(row | {key: _split(row[key]) for key in ("captions", "tags") if row.get(key)})
    return rows


_READERS = {".json": _json, ".csv": _csv}


def _split(text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        value = json.loads(text)
        return value if isinstance(value, list) else [value]
    return text.split(";")


def _parquet(data: bytes) -> list[dict[str, Any]]:
    file = pyarrow.parquet.ParquetFile(pa.BufferReader(data))
    rows: list[dict[str, Any]] = file.read([c for c in _COLUMNS if c in file.schema_arrow.names]).to_pylist()
    return rows


def _entry(row: dict[str, Any], number: int, manifest: str) -> Entry:
    def text(*names: str) -> str:
        return next((found for name in names if (found := _text(row.get(name)))), "")

    def texts(*names: str) -> tuple[str, ...]:
        values = [row.get(name) for name in names]
        every = [v for value in values for v in (value if isinstance(value, list | tuple) else [value])]
        return tuple(dict.fromkeys(found for v in every if (found := _text(v))))

    file = text(*_FILE_NAMES)
    if not file:
        raise UserError(f"row {number} of the manifest {manifest} names no file; give it a column `file`")
    return Entry(
        file=str(PurePosixPath(file)),
        uid=text("uid"),
        name=text("name"),
        category=text("category"),
        captions=texts("caption", "captions"),
        tags=texts("tags"),
        licence=text("licence", "license"),
        author=text("author"),
        source=text("source"),
        sha256=text("sha256").lower(),
    )


def _text(value: Any) -> str:
    """A cell as text; empty for what stands for "nothing" in one of the formats."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, dict | list):
        raise ValueError(f"a cell holds {value!r:.80} where a text belongs")
    text = str(value).strip()
    text.encode()  # an unpaired surrogate, which JSON can spell, is a ValueError here and no riddle later
    return text
