"""A model's folder: model.safetensors and config.json."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from sar3d.ar import config as ar_config
from sar3d.ar.transformer import ARTransformer
from sar3d.errors import UserError
from sar3d.hub.ar import empty_transformer
from sar3d.hub.files import Tensors, load_strictly, read_json, read_safetensors
from sar3d.llm.model import SAR3DLM
from sar3d.vqvae import config as vqvae_config
from sar3d.vqvae.model import VQVAE

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 1
"""Layout of the folder; raised when older readers would go wrong."""


Model = VQVAE | ARTransformer | SAR3DLM
"""Every kind of model that can be saved and loaded."""


@dataclass(frozen=True)
class Kind:
    """How one kind of model becomes values of config.json and back."""

    model: type[Model]
    config: Callable[[Any], dict[str, Any]]
    build: Callable[[dict[str, Any]], Model]
    """A model whose weights may be anything. Raises `UserError` for values that are wrong."""


KINDS: dict[str, Kind] = {
    "vqvae": Kind(
        model=VQVAE,
        config=lambda model: vqvae_config.to_dict(model.config),
        build=lambda values: VQVAE(vqvae_config.from_dict(values)),
    ),
    "ar": Kind(
        model=ARTransformer,
        config=lambda model: ar_config.to_dict(model.config),
        build=lambda values: empty_transformer(ar_config.from_dict(values)),
    ),
}

LLM = "llm"
"""A kind whose folder holds a language model as well; `sar3d.hub.llm` saves and loads it."""


def save_pretrained(model: Model, folder: str | Path, extra: dict[str, Any] | None = None) -> None:
    """Write the model's folder. config.json comes last, so a folder that has one is complete.

    Args:
        model: of one of the `KINDS`.
        folder: made if need be; a model in it is replaced.
        extra: JSON values of the caller's own, kept in config.json.

    Raises:
        UserError: the folder cannot be written.
        TypeError: the model is of no known kind.
    """
    if isinstance(model, SAR3DLM):
        from sar3d.hub import llm

        return llm.save(model, folder, extra)
    kind = next((name for name, k in KINDS.items() if type(model) is k.model), None)
    if kind is None:
        raise TypeError(f"{type(model).__name__} is no kind of model that can be saved: {', '.join(KINDS)}")
    described = {"kind": kind, "format": FORMAT, "config": KINDS[kind].config(model), "extra": extra or {}}
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    try:
        write_folder(Path(folder), tensors, json.dumps(described, indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the model cannot be saved in {folder} ({error}): choose a folder that can be written"
        ) from error


def write_folder(folder: Path, tensors: Tensors, described: str) -> None:
    """Write model.safetensors and config.json of a folder; `described` is the text of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, text = (folder / f".{name}.{os.getpid()}" for name in (WEIGHTS, CONFIG))
    try:
        save_file(tensors, weights, metadata={"format": "pt"})
        text.write_text(described, encoding="utf-8")
        # safetensors makes files that only their owner can read.
        weights.chmod(text.stat().st_mode)
        for file in (weights, text):
            _sync(file)
        # In between, the folder has no config.json: old settings never stand beside new weights.
        (folder / CONFIG).unlink(missing_ok=True)
        weights.replace(folder / WEIGHTS)
        text.replace(folder / CONFIG)
        _sync(folder)
    finally:
        for file in (weights, text):
            file.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@overload
def from_pretrained(
    folder_or_file: str | Path, device: str | torch.device = "cpu", *, kind: Literal["vqvae"]
) -> VQVAE: ...


@overload
def from_pretrained(
    folder_or_file: str | Path, device: str | torch.device = "cpu", *, kind: Literal["ar"]
) -> ARTransformer: ...


@overload
def from_pretrained(
    folder_or_file: str | Path, device: str | torch.device = "cpu", *, kind: Literal["llm"]
) -> SAR3DLM: ...


@overload
def from_pretrained(
    folder_or_file: str | Path, device: str | torch.device = "cpu", *, kind: str | None = None
) -> Any: ...


def from_pretrained(
    folder_or_file: str | Path, device: str | torch.device = "cpu", *, kind: str | None = None
) -> Model:
    """The model of a folder, in evaluation mode. No random numbers are used up.

    Args:
        folder_or_file: the folder, or the model.safetensors in it.
        device: where the model goes.
        kind: the only kind of model that will do.

    Raises:
        UserError: no such folder, a damaged file, another kind of model, tensors that do not fit; nothing is loaded.
    """
    folder = folder_of(folder_or_file)
    described = describe(folder)
    if kind is not None and described["kind"] != kind:
        raise UserError(f"{folder} holds a model of kind {described['kind']}, not {kind}: give the folder of a {kind}")
    if described["kind"] == LLM:
        from sar3d.hub import llm

        return llm.load(folder, device)
    tensors = read_safetensors(folder / WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        model = KINDS[described["kind"]].build(described["config"])
    load_strictly(model, tensors, str(folder / WEIGHTS))
    return model.to(device).eval()


def describe(folder_or_file: str | Path) -> dict[str, Any]:
    """What config.json says: `kind`, `format`, `config` and `extra`. Raises `UserError` where there is none."""
    folder = folder_of(folder_or_file)
    described = read_json(folder / CONFIG)
    kind, version = described.get("kind"), described.get("format")
    kinds = (*KINDS, LLM)
    if kind not in kinds:
        raise UserError(
            f"{folder} holds a model of kind {kind!r}, which is none of {', '.join(kinds)}: give another folder"
        )
    if version != FORMAT:
        raise UserError(f"{folder} has the format {version!r}, this version reads {FORMAT}: save the model again")
    if not isinstance(described.get("config"), dict):
        raise UserError(f"{folder / CONFIG} has no configuration: save the model again")
    return described


def digest(folder: str | Path) -> str:
    """sha256, in hex, of what decides the model's outputs: its weights, kind and configuration."""
    folder = folder_of(folder)
    described = describe(folder)
    stable = json.dumps([described["kind"], described["config"]], sort_keys=True)
    with (folder / WEIGHTS).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(f"{stable}{weights}".encode()).hexdigest()


def folder_of(path: str | Path) -> Path:
    """The folder of a model, given itself or its model.safetensors. Raises `UserError` where there is none."""
    path = Path(path)
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin") and path.is_file():
        raise UserError(f"{path} is no saved model but a PyTorch checkpoint: convert it with `sar3d convert`")
    folder = path.parent if path.name == WEIGHTS else path
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} with a model: train one or convert a published one")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no model: it has no {name}")
    return folder
