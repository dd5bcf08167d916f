"""Where saved models come from: a folder here, a URL that fsspec reads, or a repository of the Hugging Face hub."""

import functools
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from sar3d.errors import UserError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
"""`owner/name`, optionally with a branch, tag or commit."""


class Source:
    """A place that holds saved models. What is not on this machine is fetched file by file, when it is asked for.

    Args:
        where: a folder; a URL with a scheme that fsspec knows (`s3://`, `gs://`, `https://` …); or `owner/name` on the
            hub, with `@revision` if need be. A folder that exists takes precedence over a repository of its name.
    """

    def __init__(self, where: str | Path) -> None:
        self.where = str(where).removeprefix("file://")
        self.root = Path(self.where).expanduser()
        """The folder, or the local copy that grows with what is fetched."""
        self._get: Callable[[list[str]], None] | None = None
        if "://" in self.where:
            self.root = Path(tempfile.mkdtemp(dir=_scratch().name))
            self._get = self._from_url
        elif isinstance(where, str) and not self.root.exists() and _REPOSITORY.fullmatch(where):
            self._get = self._from_hub

    @property
    def local(self) -> bool:
        """Whether it is a folder of this machine (which need not exist)."""
        return self._get is None

    def fetch(self, names: Iterable[str]) -> None:
        """Have files of these relative names under `root`; one that the source does not hold is left out.

        Raises:
            UserError: the source cannot be reached, or a name leads out of its folder.
        """
        missing = [name for name in names if not (self.root / name).is_file()]
        if self._get is None or not missing:
            return
        for name in missing:  # names of files stand in config.json, which a stranger may have written
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise UserError(
                    f"{self.where} names the file {name}, which lies outside its folder: do not use this model"
                )
        self._get(missing)

    def find(self, pattern: str) -> list[str]:
        """Relative names of its files that match a glob pattern, sorted; none where the source cannot be listed."""
        if self._get is None:
            return sorted(path.relative_to(self.root).as_posix() for path in self.root.glob(pattern))
        if self._get == self._from_hub:
            return []
        try:
            fs, base = self._file_system()
            return sorted(name.removeprefix(base).lstrip("/") for name in fs.glob(f"{base}/{pattern}"))
        except (NotImplementedError, FileNotFoundError):  # a plain web server has no listing
            return []
        except Exception as error:
            raise self._unreachable(error) from error

    def _file_system(self) -> tuple[Any, str]:
        fs, base = fsspec.core.url_to_fs(self.where.rstrip("/"), use_listings_cache=False)
        return fs, str(base).rstrip("/")

    def _from_url(self, names: list[str]) -> None:
        try:
            fs, base = self._file_system()
            for name in names:
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                try:
                    fs.get_file(f"{base}/{name}", str(self.root / name))
                except FileNotFoundError:
                    (self.root / name).unlink(missing_ok=True)
        except Exception as error:  # clients of object stores have exceptions of their own
            raise self._unreachable(error) from error

    def _from_hub(self, names: list[str]) -> None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        name, _, revision = self.where.partition("@")
        try:
            self.root = Path(snapshot_download(name, revision=revision or None, allow_patterns=names))
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise UserError(
                f"there is no folder {self.where} here, and the repository {self.where} of the Hugging Face hub cannot be "
                f"fetched ({_reason(error)}): give a folder, or make the hub reachable"
            ) from error

    def _unreachable(self, error: Exception) -> UserError:
        return UserError(
            f"{self.where} cannot be read ({_reason(error)}): check the address and the credentials for it"
        )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".")


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sar3d-models-")
