"""Exported models as inputs: in a folder, at a URL, or what a training stage made. Nothing here loads one."""

import functools
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec

from pipelines.runtime.output import Output
from pipelines.runtime.store import Store, is_remote, join
from sar3d.errors import UserError

FILES = ("config.json", "model.safetensors")
"""What every exported model has."""


@dataclass(frozen=True)
class Exported:
    """An exported model that has not been loaded."""

    url: str
    digest: str
    """Of its weights and configuration, see `sar3d.hub.digest`."""
    config: dict[str, Any]
    """Values of its config.json under `config`."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What its training noted besides: the digest of the VQVAE whose tokens it takes, the condition encoder."""

    def folder(self, names: Iterable[str] = ()) -> Path:
        """Its folder, or a local copy of it, or of these files of it."""
        return local_copy(self.url, names)


def exported(where: str, kind: str = "") -> Exported:
    """The model in a folder or at a URL, or of the training output there.

    Raises:
        UserError: there is none, or it is not of this kind (empty: any).
    """
    url = join(where, "model") if Store(where).exists("model/config.json") else where
    folder = local_copy(url, FILES)
    return Exported(url, _digest(folder, _age(folder)), *_description(url, kind))


def trained(output: Output, kind: str = "") -> Exported:
    """The model of a finished training stage; nothing but its config.json is read."""
    url = join(output.url, "model")
    return Exported(url, output.model_digest(), *_description(url, kind))


def _description(url: str, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    data = Store(url).read("config.json")
    what = f"an exported {kind}" if kind else "an exported model"
    if data is None:
        raise UserError(f"there is no model at {url} (no config.json): give the folder of {what}")
    values = json.loads(data)
    if kind and values.get("kind") != kind:
        raise UserError(f"the model at {url} is of kind {values.get('kind')}: give the folder of {what}")
    return values["config"], dict(values.get("extra") or {})


def check_tokens_of(model: Exported, vqvae: Exported, name: str, setting: str) -> None:
    """Raise `UserError` where a model takes or makes the tokens of another VQVAE than this one.

    Args:
        name: what the model is called in the sentence.
        setting: the key of the configuration that names the VQVAE.
    """
    from sar3d.hub import check_tokens

    hint = f"give the VQVAE that it was trained with ({setting}), or train the {name} again"
    check_tokens(f"the {name} at {model.url}", model.extra.get("vqvae"), vqvae.url, vqvae.digest, hint)


def local_copy(url: str, names: Iterable[str] = ()) -> Path:
    """The folder itself if it is local, else a copy that lives as long as this process.

    Args:
        names: files that are needed; empty: all.

    Raises:
        UserError: there is no such folder.
    """
    if not is_remote(url):
        return Path(url.removeprefix("file://"))
    fs, place = fsspec.core.url_to_fs(url, use_listings_cache=False)
    wanted = tuple(names) or tuple(sorted(Store(url).names()))
    try:
        if not wanted:
            raise FileNotFoundError(url)
        # A training stage that goes on replaces its model, which gives the files other keys.
        return _fetch(url, wanted, tuple(str(fs.ukey(f"{place}/{name}")) for name in wanted))
    except FileNotFoundError as error:
        raise UserError(f"there is no model at {url}: give the folder or URL of an exported model") from error


@functools.cache
def _fetch(url: str, names: tuple[str, ...], keys: tuple[str, ...]) -> Path:
    folder = Path(tempfile.mkdtemp(dir=_scratch().name))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Store(url).download(name, folder / name)
    return folder


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sar3d-models-")


def _age(folder: Path) -> tuple[int, ...]:
    """What tells, without reading it, that a folder's model has been replaced."""
    stats = [(folder / name).stat() for name in FILES if (folder / name).exists()]
    return tuple(n for s in stats for n in (s.st_mtime_ns, s.st_size, s.st_ino))


@functools.lru_cache(16)
def _digest(folder: Path, age: tuple[int, ...]) -> str:
    from sar3d.hub import digest

    return digest(folder)
