"""The tracking store in a local root: its address, whatever the root is called, and what to do when the root has moved."""

import contextlib
import hashlib
import json
import os
import re
import shlex
import sqlite3
import sys
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

from pipelines.runtime.store import Store

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
_UNUSABLE = re.compile(r"[?#%\s]")
"""Characters of a path that SQLAlchemy or MLflow read as something else in an address, or that a shell parts words at."""
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
"""Columns of MLflow's tables that hold places under the root, written as `artifact_location` writes them."""
_TAGS = (("tags", "value"), ("model_version_tags", "value"))
"""Columns that hold paths under the root among other things."""


def database_uri(root: str) -> str:
    """The address of a local root's SQLite store, in which every path of the root can be said.

    SQLAlchemy has no way to write some characters of a path: such a root is reached by a link in the user's cache.
    """
    path = str(Store(root).path(DATABASE).parent)
    if _UNUSABLE.search(path):
        link = _cache() / hashlib.sha256(path.encode()).hexdigest()[:16]
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(path)
        path = str(link)
    return f"sqlite:///{path}/{DATABASE}"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sar3d" / "roots"


def artifact_location(root: str) -> str:
    """Where a local root's artifacts lie, as MLflow understands it."""
    path = Store(root).path(ARTIFACTS)
    return path.as_uri() if _UNUSABLE.search(str(path)) else str(path)


def how_to_open(uri: str) -> str:
    """The command that shows a SQLite store, to be pasted into a shell."""
    mlflow = Path(sys.executable).with_name("mlflow")
    return f"{shlex.quote(str(mlflow))} ui --backend-store-uri {shlex.quote(uri)}"


def follow_move(root: str) -> str | None:
    """If a local root has been renamed or moved since its runs were recorded, rewrite the places of their artifacts.

    Returns a sentence if something was rewritten. Repeating it changes nothing; a store that another program holds is
    left for the next time.
    """
    store = Store(root)
    if not store.local or not store.exists(DATABASE):
        return None
    with contextlib.closing(sqlite3.connect(store.path(DATABASE), timeout=10)) as database:
        try:
            with database:
                moved = _earlier_roots(database, root)
                for before in moved:
                    _rewrite(database, before, root)
        except sqlite3.DatabaseError as error:
            return f"MLflow's store in {root} cannot be brought up to date ({error}): make it writable, or close what holds it"
    if not moved:
        return None
    return (
        f"{root} was at {', '.join(moved)} before: MLflow finds the artifacts of its runs and models where they are now"
    )


def _earlier_roots(database: sqlite3.Connection, root: str) -> list[str]:
    """Where the experiments' artifacts lay, if that was not under this root."""
    if "experiments" not in _tables(database):
        return []
    found = (_path(location) for (location,) in database.execute("SELECT artifact_location FROM experiments"))
    ours = str(Store(root).path(ARTIFACTS))
    homes = dict.fromkeys(path for path in found if path.endswith(f"/{ARTIFACTS}") and path != ours)
    roots = [path.removesuffix(f"/{ARTIFACTS}") for path in homes]
    # Two names of one folder, such as a link to it, are no move.
    return [before for before in roots if not (os.path.exists(before) and os.path.samefile(before, root))]


def _tables(database: sqlite3.Connection) -> set[str]:
    return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _path(location: str | None) -> str:
    parsed = urlparse(location or "")
    return unquote(parsed.path) if parsed.scheme == "file" else str(location or "")


def _rewrite(database: sqlite3.Connection, before: str, now: str) -> None:
    there = _tables(database)
    uri = Path(now).as_uri()
    for table, column in _LOCATIONS:
        if table in there:
            _replace(database, table, column, f"file://{quote(before)}", uri)
            _replace(database, table, column, before, uri if _UNUSABLE.search(now) else now)
    for table, column in _TAGS:
        if table in there:
            _replace(database, table, column, before, now)
    if "datasets" in there:
        _rewrite_datasets(database, before, now)


def _rewrite_datasets(database: sqlite3.Connection, before: str, now: str) -> None:
    for identifier, source in list(database.execute("SELECT dataset_uuid, dataset_source FROM datasets")):
        url = json.loads(source).get("url", "") if source.startswith("{") else ""
        if url.startswith(f"{before}/"):
            new = json.dumps({"url": now + url.removeprefix(before)})
            database.execute("UPDATE datasets SET dataset_source = ? WHERE dataset_uuid = ?", (new, identifier))


def _replace(database: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    """Where a column's text is the path `old` or one below it, let it begin with `new` instead."""
    database.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
    )
