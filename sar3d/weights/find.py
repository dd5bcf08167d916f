"""Finding and fetching weights, and telling whether they are the published ones."""

import functools
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sar3d.errors import UserError
from sar3d.weights.registry import REGISTRY, entry
from sar3d.weights.sources import HubModel, Package, Source, is_model

FOLDER = "SAR3D_WEIGHTS"
"""Environment variable with the folder that holds weights by their file's or model's name."""
_COUNTED = ("config.json", "tokenizer.json", "vocab.json", "merges.txt", "vocab.txt")


class MissingWeightsError(UserError):
    """Weights that are nowhere to be found and cannot be downloaded."""


def locate(name: str, where: str = "", setting: str = "") -> Path:
    """The file or folder of weights, in the order that this module states.

    Args:
        name: one of `REGISTRY`.
        where: a local path, or for a model a hub repository (`owner/name`); empty for the registered one.
        setting: what the person sets to give another path, for the sentence.

    Raises:
        UserError: `where` is no path that there is, or a registered file is damaged.
        MissingWeightsError: they are nowhere and cannot be downloaded.
    """
    source = entry(name).source
    help_ = f"set {setting} to their path, or " if setting else ""
    if where:
        path = Path(where).expanduser()
        if path.exists():
            return path
        if path.is_absolute() or where.startswith((".", "~")) or not isinstance(source, HubModel):
            raise UserError(f"the weights of {name} are not at {where}: {help_}run `sar3d weights fetch {name}`")
        source = HubModel(where, source.tensors)
    return locate_source(name, source, help_)


def locate_source(name: str, source: Source, help_: str = "") -> Path:
    """As `locate`, from a source that need not be the registered one; `help_` begins the advice in the sentence."""
    found = find(source)
    if found is None:
        advice = f"{help_}run `sar3d weights fetch {name} --to DIR` where there is a network and set {FOLDER}=DIR"
        found = _downloaded(name, source, None, advice)
    return _checked(name, source, found)


def find(source: Source) -> Path | None:
    """Where weights are on this machine: in `$SAR3D_WEIGHTS`, a cache or a package; None where they are not."""
    folder = os.environ.get(FOLDER, "")
    if folder and (Path(folder) / source.local_name).exists():
        return Path(folder) / source.local_name
    return source.cached()


def fetch(name: str, to: Path | None = None) -> Path:
    """Bring weights into the folder `to`, by download unless they are on this machine; where none is given, into
    `$SAR3D_WEIGHTS` or the usual cache.

    Raises:
        UserError: no such weights, a damaged file, or they cannot be downloaded.
    """
    source = entry(name).source
    to = to or (Path(os.environ[FOLDER]) if os.environ.get(FOLDER) else None)
    here = find(source)
    if here is None:
        return _checked(name, source, _downloaded(name, source, to, "try again where there is a network"))
    _checked(name, source, here)
    if to is None or here.parent == to:
        return here
    to.mkdir(parents=True, exist_ok=True)
    # Under another name until it is whole: a copy may be interrupted.
    partial = to / f"{source.local_name}.partial"
    if here.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(here, partial)
    else:
        shutil.copyfile(here, partial)
    return partial.replace(to / source.local_name)


@dataclass(frozen=True)
class Listed:
    """One entry of the registry as this machine has it."""

    name: str
    about: str
    path: Path | None
    """None where the weights are not here."""
    damaged: bool
    """The file has another digest than the published one."""
    megabytes: int
    """Of what is here, else of the download; rounded up."""
    license: str
    where: str
    """Repository, URL or package."""


def inventory() -> list[Listed]:
    """All registered weights; nothing is fetched."""
    found = []
    for name, weights in REGISTRY.items():
        source = weights.source
        path = find(source)
        damaged = path is not None and bool(source.sha256) and not _sha256(path).startswith(source.sha256)
        size = weights.megabytes if path is None else -(-_size(path) // 1_000_000)
        found.append(Listed(name, weights.about, path, damaged, size, weights.license, source.where))
    return found


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def is_published(name: str, path: Path) -> bool:
    """Whether a file has the digest that the registry knows; False where it knows none."""
    wanted = entry(name).source.sha256
    return bool(wanted) and _sha256(path).startswith(wanted)


def digest(files: list[Path]) -> str:
    """Sixteen hex digits of what the files hold."""
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode() + bytes.fromhex(_sha256(path)))
    return total.hexdigest()[:16]


def model_files(name: str, folder: Path) -> list[Path]:
    """The files of a folder that decide what its model computes. Raises `UserError` where there are none."""
    if not is_model(folder):
        raise UserError(
            f"the weights of {name} in {folder} are incomplete: config.json and model.safetensors belong there"
        )
    return [*(folder / f for f in _COUNTED if (folder / f).is_file()), *sorted(folder.glob("*.safetensors"))]


def _downloaded(name: str, source: Source, folder: Path | None, advice: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    try:
        if constants.HF_HUB_OFFLINE and not isinstance(source, Package):
            raise OSError("HF_HUB_OFFLINE forbids downloads")
        return source.download(folder)
    except HFValidationError as error:
        raise UserError(f"{source.where!r} is no name of a hub repository: give owner/name") from error
    except UserError as error:
        raise MissingWeightsError(f"the weights of {name} are not here, {error}") from error
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
        raise MissingWeightsError(
            f"the weights of {name} ({source.where}) are not here and cannot be fetched: {advice} ({reason})"
        ) from error


def _checked(name: str, source: Source, path: Path) -> Path:
    wanted = source.sha256
    if wanted and not _sha256(path).startswith(wanted):
        raise UserError(
            f"{path} is not the published file of {name}, whose sha256 begins with {wanted}: delete it and fetch it again"
        )
    return path


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _file_sha256(str(path), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(64)
def _file_sha256(path: str, mtime: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
