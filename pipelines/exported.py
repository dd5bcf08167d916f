"""Exported models as the inputs of stages: by folder or URL, or as what a training stage of this configuration made."""

import functools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from pipelines.runtime.output import Output, outputs
from pipelines.runtime.store import Store, is_remote, join
from sar3d.errors import UserError

FILES = ("config.json", "model.safetensors")
TOKENIZER_STAGE = "train_vqvae"
CAPTIONER_STAGE = "train_llm"


@dataclass(frozen=True)
class Exported:
    """An exported model that has not been loaded."""

    url: str
    digest: str
    """Of its weights and configuration, see `sar3d.hub.digest`."""
    config: dict[str, Any]
    """Values of its config.json under `config`."""


def exported(where: str, kind: str) -> Exported:
    """The model in a folder or at a URL, or of the training output there. Raises `UserError` if there is none."""
    url = join(where, "model") if Store(where).exists("model/config.json") else where
    folder = local_copy(url)
    return Exported(url, _digest(folder, _age(folder)), _config(url, kind))


def trained(output: Output, kind: str) -> Exported:
    """The model of a finished training stage; nothing but its config.json is read."""
    url = join(output.url, "model")
    return Exported(url, output.model_digest(), _config(url, kind))


def newest(root: str, stages: tuple[str, ...]) -> Iterator[Output]:
    """Finished outputs of training stages under a root, the newest first; none where it is no root."""
    found = [(output.finished(), output) for stage in stages for output in outputs(root, stage)]
    done = [(float(success["finished"]), output) for success, output in found if success is not None]
    return (output for _, output in sorted(done, key=lambda entry: -entry[0]))


def _config(url: str, kind: str) -> dict[str, Any]:
    data = Store(url).read("config.json")
    if data is None:
        raise UserError(f"there is no model at {url} (no config.json): give the folder of an exported {kind}")
    values = json.loads(data)
    if values.get("kind") != kind:
        raise UserError(f"the model at {url} is of kind {values.get('kind')}: give the folder of an exported {kind}")
    config: dict[str, Any] = values["config"]
    return config


def extra_of(url: str) -> dict[str, Any]:
    """What the training of a model noted in its config.json besides its configuration; empty for none."""
    data = Store(url).read("config.json")
    values = json.loads(data) if data is not None else {}
    return dict(values.get("extra") or {})


def check_same(model: Exported, vqvae: Exported, called: str, section: str) -> None:
    """Raise `UserError` where a model reads or makes the codes of another VQVAE than this one.

    Args:
        called: what the model is called in the sentence.
        section: of the configuration, where the VQVAE is set.
    """
    made_for = extra_of(model.url).get("vqvae")
    if made_for and made_for != vqvae.digest:
        raise UserError(
            f"the {called} at {model.url} was trained on the codes of the VQVAE {made_for[:16]}, but {vqvae.url} is "
            f"{vqvae.digest[:16]}: give the VQVAE that it was trained with ({section}.vqvae), or train the {called} again"
        )


def local_copy(url: str) -> Path:
    """The folder itself if it is local, else a copy that lives as long as this process. Raises `UserError` for none."""
    if not is_remote(url):
        return Path(url.removeprefix("file://"))
    fs, place = fsspec.core.url_to_fs(url, use_listings_cache=False)
    try:
        # A training stage that goes on replaces its model, which gives the files other keys.
        return _fetch(url, tuple(str(fs.ukey(f"{place}/{name}")) for name in FILES))
    except FileNotFoundError as error:
        raise UserError(f"there is no model at {url}: give the folder or URL of an exported model") from error


@functools.cache
def _fetch(url: str, keys: tuple[str, ...]) -> Path:
    folder = Path(tempfile.mkdtemp(dir=_scratch().name))
    for name in FILES:
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
