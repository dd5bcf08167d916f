"""Files of results: under names that nobody guesses, for a while."""

import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from pipelines.serving.problems import ServiceError
from sar3d.errors import UserError
from sar3d.generate.sample import EXPORTED, TOKENS

_NAME = re.compile(r"[A-Za-z0-9_-]{22}")
_ABOUT = "about.json"
TYPES = {
    TOKENS: "application/octet-stream",
    EXPORTED["glb"]: "model/gltf-binary",
    EXPORTED["ply"]: "application/octet-stream",
    EXPORTED["obj"]: "model/obj",
    EXPORTED["mp4"]: "video/mp4",
    EXPORTED["gif"]: "image/gif",
    EXPORTED["png"]: "image/png",
}
"""Every file that can be read, with its media type."""


class Results:
    """A folder with a folder for each result.

    Args:
        folder: made if it is not there, and readable by this user alone; empty: one for temporary files.
        seconds: how long a result is kept.
        most: bytes of all results; the oldest go first.

    Raises:
        UserError: the folder cannot be made, or holds something else.
    """

    def __init__(self, folder: str, seconds: float, most: int) -> None:
        self.seconds, self.most = seconds, most
        try:
            self.folder = Path(folder or tempfile.mkdtemp(prefix="sar3d-results-"))
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            strange = [p.name for p in self.folder.iterdir() if not _NAME.fullmatch(p.name)]
        except OSError as error:
            raise UserError(
                f"the folder for results {folder} cannot be used ({error.strerror}): choose another"
            ) from error
        if strange:
            raise UserError(
                f"the folder for results {folder} holds {strange[0]}: give an empty one, old results are deleted"
            )

    def put(self, files: Mapping[str, bytes], tokens: tuple[int, ...]) -> str:
        """Keep a result; returns its name. It is there as a whole or not at all."""
        name = secrets.token_urlsafe(16)
        place = self.folder / secrets.token_urlsafe(16)
        place.mkdir(mode=0o700)
        for file, data in files.items():
            if file in TYPES:
                (place / file).write_bytes(data)
        (place / _ABOUT).write_text(json.dumps({"tokens": tokens}))
        place.rename(self.folder / name)
        return name

    def file(self, name: str, file: str) -> Path:
        """A file of a result. Raises `ServiceError` 404."""
        path = self._place(name) / file if file in TYPES else None
        if path is None or not path.is_file():
            raise ServiceError(404, "no_such_file", "the result has no such file")
        return path

    def tokens(self, name: str) -> tuple[int, ...]:
        """The tokens of a result. Raises `ServiceError` 404."""
        about = json.loads((self._place(name) / _ABOUT).read_text())
        return tuple(about["tokens"])

    def delete(self, name: str) -> None:
        """Forget a result before its time. Raises `ServiceError` 404."""
        shutil.rmtree(self._place(name), ignore_errors=True)

    def _place(self, name: str) -> Path:
        place = self.folder / name
        if not _NAME.fullmatch(name) or not place.is_dir() or self._age(place) > self.seconds:
            raise ServiceError(404, "no_such_result", "there is no such result, or its time is over: make it again")
        return place

    def _age(self, place: Path) -> float:
        return time.time() - place.stat().st_mtime

    def sweep(self) -> None:
        """Delete what is too old, and the oldest where there is too much."""
        total = 0
        for place in sorted(self.folder.iterdir(), key=lambda p: -p.stat().st_mtime):
            total += sum(entry.stat().st_size for entry in os.scandir(place))
            if self._age(place) > self.seconds or total > self.most:
                shutil.rmtree(place, ignore_errors=True)
