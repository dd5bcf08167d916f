"""Which file of a system's folder belongs to which object: by the system's own names, or by a table of the person's.

The table is `mapping.csv` in the folder, with the columns `uid` and `file`, and optionally `elevation` and `azimuth` of
the view that the object was made from, in degrees.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sar3d.compare.systems import Layout, System, patterns_of
from sar3d.errors import UserError

MAPPING = "mapping.csv"


@dataclass(frozen=True)
class Found:
    """The file of one object."""

    uid: str
    path: Path
    """A file, or the folder of the pictures."""
    layouts: tuple[Layout, ...]
    """Those that it may be of: two writers may give their files the same name."""
    elevation: float | None = None
    azimuth: float | None = None


def find_files(root: Path, system: System, uids: Iterable[str]) -> dict[str, Found]:
    """The files of those objects that the system has any of.

    Raises:
        UserError: the folder is none, no object is in it, an object has two files, or the table is broken.
    """
    wanted = list(uids)
    if not root.is_dir():
        raise UserError(f"there is no folder {root} with the output of {system.title}")
    mapped = (root / MAPPING).is_file()
    found = _mapped(root, system, set(wanted)) if mapped else _matched(root, system, wanted)
    if not found:
        raise UserError(
            f"{root} holds none of the {len(wanted)} objects of the truth as {system.title} writes them "
            f"({', '.join(patterns_of(system))}): give the files their uids, or add a {MAPPING} with the columns uid,file"
        )
    return found


def _matched(root: Path, system: System, uids: Sequence[str]) -> dict[str, Found]:
    keys = _keys(system, uids)
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    ranks: dict[str, tuple[int, set[Path]]] = {}
    patterns = [(layout, pattern) for layout in system.layouts for pattern in layout.patterns]
    for rank, (layout, pattern) in enumerate(patterns):
        shape = _regex(pattern)
        for file in files:
            match = shape.fullmatch(file)
            uid = keys.get(match["uid"]) if match else None
            if uid is None:
                continue
            path = root / (PurePosixPath(file).parent if _is_folder(layout, file) else file)
            held = ranks.setdefault(uid, (rank, set()))
            if held[0] == rank:
                held[1].add(path)
    found = {}
    for uid, (rank, paths) in ranks.items():
        if len(paths) > 1:
            first, second = sorted(paths)[:2]
            raise UserError(f"{uid} has two files in {root}, {first.name} and {second}: name one in a {MAPPING}")
        found[uid] = Found(uid, paths.pop(), _alternatives(system, patterns[rank]))
    return {uid: found[uid] for uid in uids if uid in found}


def _keys(system: System, uids: Sequence[str]) -> dict[str, str]:
    """From what names of files hold to uids."""
    keys: dict[str, str] = {}
    for uid in uids:
        name = PurePosixPath(uid).name
        key = name.partition(".")[0] if system.uid == "to_first_dot" else name
        if key in keys and keys[key] != uid:
            raise UserError(
                f"{system.title} names the files of {keys[key]} and of {uid} both {key}: tell them apart in a {MAPPING}"
            )
        keys[key] = uid
    return keys


def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\{uid\}|\*)", pattern)
    body = "".join({"{uid}": "(?P<uid>[^/]+)", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
    return re.compile(f"(?:.*/)?{body}")


def _is_folder(layout: Layout, file: str) -> bool:
    return layout.kind == "pictures" and PurePosixPath(file).suffix.lower() in (".png", ".jpg", ".jpeg")


def _alternatives(system: System, chosen: tuple[Layout, str]) -> tuple[Layout, ...]:
    layout, pattern = chosen
    if layout.writer == "any":
        return (layout,)
    return tuple(other for other in system.layouts if other.writer != "any" and pattern in other.patterns)


def _mapped(root: Path, system: System, uids: set[str]) -> dict[str, Found]:
    found: dict[str, Found] = {}
    with (root / MAPPING).open(newline="", encoding="utf-8-sig") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            if not row.get("uid") or not row.get("file"):
                raise UserError(f"line {line} of {root / MAPPING} has no uid or no file: its columns are uid,file")
            path = (root / row["file"]).resolve()
            if not path.is_relative_to(root.resolve()) or not path.exists():
                raise UserError(f"line {line} of {root / MAPPING} names {row['file']}, which is not in that folder")
            if row["uid"] in found:
                raise UserError(f"{root / MAPPING} names {row['uid']} twice: give it one file")
            if row["uid"] in uids:
                view = [_degrees(row, name, root, line) for name in ("elevation", "azimuth")]
                found[row["uid"]] = Found(row["uid"], path, _by_suffix(root, system, path), *view)
    return found


def _degrees(row: Mapping[str, str], column: str, root: Path, line: int) -> float | None:
    text = (row.get(column) or "").strip()
    try:
        return float(text) if text else None
    except ValueError as error:
        raise UserError(
            f"line {line} of {root / MAPPING} has {column} {text!r}, which is no angle in degrees"
        ) from error


def _by_suffix(root: Path, system: System, path: Path) -> tuple[Layout, ...]:
    """The layouts of a system that a file in its table may be of: by its name if that fits, else by its suffix."""
    relative = path.relative_to(root.resolve()).as_posix()
    layouts = [(layout, pattern) for layout in system.layouts for pattern in layout.patterns]
    for chosen in layouts:
        if _regex(chosen[1]).fullmatch(relative):
            return _alternatives(system, chosen)
    suffix = path.suffix.lower() or ".png"
    for chosen in layouts:
        if chosen[1].lower().endswith(suffix):
            return _alternatives(system, chosen)
    raise UserError(
        f"{path.name} is none of the files that {system.title} writes ({', '.join(patterns_of(system))}): name another "
        f"in {root / MAPPING}"
    )
