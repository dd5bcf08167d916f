"""What there is to compare: each object of the truth once by itself, and once for each system."""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from pipelines.measuring.lines import FLOOR, TRUTH
from pipelines.runtime.output import Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import Log
from pipelines.sources.company import digest_with_references
from sar3d.compare.files import Found, find_files
from sar3d.compare.systems import System, system_named
from sar3d.errors import UserError
from sar3d.meshes.references import REFERRING
from sar3d.spacing import evenly_spaced

_READERS = 8


@dataclass(frozen=True)
class Compared:
    """One object of the truth."""

    uid: str
    name: str
    """What systems' files are named by."""
    path: str
    sha256: str
    shift: str


def importer_of(label: str) -> System:
    """The importer of a system: `trellis`, or `anything:trellis` for a second folder of the same system.

    Raises:
        UserError: there is no such importer, or the label is taken.
    """
    if label in (TRUTH, FLOOR):
        raise UserError(f"a system cannot be called {label}: that is what systems are compared with")
    return system_named(label.rpartition(":")[2])


def compared_objects(objects: Output, count: int, shift: str) -> list[Compared]:
    """At most `count` objects, spread evenly. Raises `UserError` where the rows have no such column."""
    rows = read_rows(objects, ["uid", "path", "sha256", *([shift.partition(".")[0]] if shift else [])])
    listed = [
        Compared(row["uid"], name_of(row["uid"], row["path"]), row["path"], row["sha256"], shift_of(row, shift))
        for row in rows
    ]
    return evenly_spaced(listed, count)


def name_of(uid: str, path: str) -> str:
    """What an object is called in the names of files: its uid, or the name of its own file where nobody gave it one."""
    given = uid != hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()
    return uid if given else PurePosixPath(path).stem


def check_shift(column: str, schema: pa.Schema, setting: str) -> None:
    """Raise `UserError` unless a column of the objects, such as `category` or `attributes.style`, holds texts."""
    first, _, rest = column.partition(".")
    kind = schema.field(first).type if first in schema.names else None
    if kind is not None and rest:
        names = [kind.field(i).name for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
        kind = kind.field(rest).type if rest in names else None
    if kind is None or not pa.types.is_string(kind):
        known = [f.name for f in schema if pa.types.is_string(f.type) and f.name not in ("uid", "path", "sha256")]
        raise UserError(
            f"{setting}={column} is no column of texts: choose from {', '.join(known)}, or attributes.family and its like"
        )


def shift_of(row: Mapping[str, Any], column: str) -> str:
    """The part of the objects that a row belongs to; empty for none."""
    value: Any = row if column else ""
    for name in column.split(".") if column else ():
        value = (value or {}).get(name)
    return value or ""


def compare_items(objects: list[Compared], systems: Mapping[str, str], log: Log) -> Iterator[Item]:
    """Of each object the truth, then every system in the order of the settings, whether it wrote a file or not.

    Raises:
        UserError: a folder holds none of the objects, or an object has two files there.
    """
    names = {one.name: one for one in objects}
    found: dict[str, dict[str, Found]] = {}
    digests: dict[Path, str] = {}
    for label, folder in systems.items():
        found[label] = find_files(Path(folder), importer_of(label), names)
        log(f"compare: {label} has files of {len(found[label]):,} of {len(objects):,} objects")
        paths = [one.path for one in found[label].values()]
        with ThreadPoolExecutor(_READERS) as pool:
            digests |= zip(paths, pool.map(content_digest, paths), strict=True)
    for one in objects:
        about = {"object": one.uid, "sha256": one.sha256, "shift": one.shift, "_truth": one.path}
        yield {"uid": f"{one.uid}@{TRUTH}", "system": TRUTH, "_file": one.path, **about}
        for label in systems:
            yield {
                "uid": f"{one.uid}@{label}",
                "system": label,
                **about,
                **_file(found[label].get(one.name), digests, label),
            }


def _file(found: Found | None, digests: Mapping[Path, str], label: str) -> Item:
    """What an item holds of a system's file."""
    if found is None:
        return {"content": "", "_file": ""}
    layouts = importer_of(label).layouts
    return {
        "content": digests[found.path],
        "layouts": [layouts.index(layout) for layout in found.layouts],
        "elevation": found.elevation,
        "azimuth": found.azimuth,
        "_file": str(found.path),
    }


def found_of(item: Item) -> Found:
    """The inverse, on a worker."""
    layouts = importer_of(item["system"]).layouts
    chosen = tuple(layouts[i] for i in item["layouts"])
    return Found(item["object"], Path(item["_file"]), chosen, item["elevation"], item["azimuth"])


def content_digest(path: Path) -> str:
    """SHA-256 of a file with what it refers to, or of the pictures of a folder."""
    if path.is_dir():
        total = hashlib.sha256()
        for file in sorted(p for p in path.iterdir() if p.is_file()):
            total.update(f"{file.name} {_file_digest(file)}\n".encode("utf-8", "surrogatepass"))
        return total.hexdigest()
    own = _file_digest(path)
    return digest_with_references(path.parent, path.name, own) if path.name.lower().endswith(REFERRING) else own


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
