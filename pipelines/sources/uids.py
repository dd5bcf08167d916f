"""Lists of Objaverse's objects as people have them: uids, paths and addresses, and the files that Objaverse publishes."""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.sources.texts import Log, decoded, header, separated
from sar3d.errors import UserError

_COLUMNS = ("uid", "obj_id", "object_id", "path", "file", "id")
_UID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", re.IGNORECASE)
"""As Objaverse makes them."""


def read_uids(path: str, log: Log) -> list[str]:
    """The uids of a .txt, .csv, .tsv or .json file, which may end in .gz, each once.

    An entry may be a uid, or a path or an address with one in it. JSON: a list of entries or of records with a `uid`, or
    a dictionary that has uids (or paths) for keys or for values, or lists of them, as the files that Objaverse
    publishes: paths, annotations, LVIS.

    Raises `UserError` if the file is missing, does not parse or is empty.
    """
    file = Path(path).expanduser()
    packed = file.suffix.lower() == ".gz"
    suffix = (file.with_suffix("") if packed else file).suffix.lower()
    try:
        data = gzip.decompress(file.read_bytes()) if packed else file.read_bytes()
        entries = list(_entries(decoded(data, path, log), suffix))
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        raise UserError(f"download.objaverse.uids_file {path} cannot be read ({error}); give a list of uids") from error
    found = list(dict.fromkeys(uid for entry in entries if (uid := _uid(entry))))
    if not found:
        raise UserError(f"download.objaverse.uids_file {path} holds no uid; give one a line, a CSV or a JSON list")
    return found


def _uid(entry: str) -> str:
    """The uid that an entry is or has in it; of a .glb file that has none of Objaverse's, its name."""
    entry = entry.strip().strip("\"'")
    if made := _UID.findall(entry):
        return str(made[-1]).lower()
    return PurePosixPath(entry.replace("\\", "/")).stem if entry.lower().endswith(".glb") else entry


def _entries(text: str, suffix: str) -> Iterator[str]:
    if suffix == ".json":
        yield from _json(json.loads(text))
    elif suffix in (".csv", ".tsv"):
        separator, text = separated(text, (_COLUMNS,))
        names = header(text, separator)
        column = next((names.index(name) for name in _COLUMNS if name in names), None)
        rows = [row for row in csv.reader(text.splitlines(), delimiter=separator) if row]
        yield from (row[column or 0] for row in rows[column is not None :] if len(row) > (column or 0))
    else:
        yield from (line.partition("#")[0] for line in text.splitlines() if line.strip().lower() not in _COLUMNS)


def _json(value: Any) -> Iterator[str]:
    """The entries of a JSON value of any of the known layouts. Raises `ValueError` for another one."""
    if isinstance(value, dict) and "uids" in value:
        yield from _json(value["uids"])
    elif isinstance(value, dict) and not isinstance(value.get("uid"), str):
        if all(isinstance(v, str) for v in value.values()):  # of paths by uid, or the other way round
            yield from (key if _UID.search(key) or not _UID.search(v) else v for key, v in value.items())
        elif all(isinstance(v, list) for v in value.values()):  # by category, or under `uids`
            for listed in value.values():
                yield from _json(listed)
        elif all(isinstance(v, dict) for v in value.values()):  # annotations by uid
            yield from value
        else:
            raise ValueError(_UNKNOWN)
    elif isinstance(value, dict):
        yield value["uid"]
    elif isinstance(value, list) and all(isinstance(v, str | dict) for v in value):
        for entry in value:
            yield from [entry] if isinstance(entry, str) else _json(entry)
    else:
        raise ValueError(_UNKNOWN)


_UNKNOWN = "it is neither a list of uids nor one of the files that Objaverse publishes"
