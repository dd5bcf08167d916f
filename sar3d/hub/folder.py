"""The folder that holds a saved model: model.safetensors, config.json and a model card."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from sar3d.errors import UserError
from sar3d.hub.card import model_card
from sar3d.hub.files import Tensors, read_json
from sar3d.hub.source import Source

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"
LM = "lm"
"""Subfolder with the language model of a captioner."""
LM_FILES = "lm_files"
"""Key of a captioner's configuration: names and sha256 of the files in it."""
FORMAT = 1
"""Layout of the folder; raised when older readers would go wrong."""
KINDS = ("vqvae", "flexicubes", "ar", "llm")
"""Kinds of models that folders hold."""


def write_folder(folder: Path, tensors: Tensors, described: dict[str, Any]) -> None:
    """Write model.safetensors, the model card and config.json of a folder; `described` is what the last one holds.

    config.json comes last: a folder that has one is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights, card, text = files = [folder / f".{name}.{os.getpid()}" for name in (WEIGHTS, CARD, CONFIG)]
    try:
        save_file(tensors, weights, metadata={"format": "pt"})
        count = sum(tensor.numel() for tensor in tensors.values())
        card.write_text(model_card(described, _digest(described, weights), count), encoding="utf-8")
        text.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        # safetensors makes files that only their owner can read.
        weights.chmod(text.stat().st_mode)
        for file in files:
            _sync(file)
        # In between, the folder has no config.json: old settings never stand beside new weights.
        (folder / CONFIG).unlink(missing_ok=True)
        weights.replace(folder / WEIGHTS)
        card.replace(folder / CARD)
        text.replace(folder / CONFIG)
        _sync(folder)
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe(folder_or_file: str | Path) -> dict[str, Any]:
    """What config.json says: `kind`, `format`, `config` and `extra`. Raises `UserError` where there is none."""
    return describe_config(folder_of(folder_or_file))


def describe_config(folder: Path) -> dict[str, Any]:
    """As `describe`, of a folder whose weights may not be there yet."""
    described = read_json(folder / CONFIG)
    kind, version = described.get("kind"), described.get("format")
    if kind not in KINDS:
        raise UserError(
            f"{folder} holds a model of kind {kind!r}, which is none of {', '.join(KINDS)}: give another folder"
        )
    if version != FORMAT:
        raise UserError(f"{folder} has the format {version!r}, this version reads {FORMAT}: save the model again")
    if not isinstance(described.get("config"), dict):
        raise UserError(f"{folder / CONFIG} has no configuration: save the model again")
    return described


def digest(folder: str | Path) -> str:
    """sha256, in hex, of what decides the model's outputs: its weights, kind and configuration."""
    folder = folder_of(folder)
    return _digest(read_json(folder / CONFIG), folder / WEIGHTS)


def _digest(described: dict[str, Any], weights: Path) -> str:
    stable = json.dumps([described["kind"], described["config"]], sort_keys=True)
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(f"{stable}{found}".encode()).hexdigest()


def check_tokens(
    model: str, made_for: str | None, vqvae: str, found: str, hint: str = "give the VQVAE that it was trained with"
) -> None:
    """Raise `UserError` where a model takes or makes the tokens of another VQVAE than the one at hand.

    Args:
        model: what the model is called in the sentence, and where it lies.
        made_for: digest of the VQVAE it was trained with; empty or None: not known, which passes.
        vqvae: where the VQVAE at hand lies.
        found: its digest.
        hint: what to do.
    """
    if made_for and made_for != found:
        raise UserError(
            f"{model} was trained on the tokens of the VQVAE {made_for[:16]}, but {vqvae} is {found[:16]}: {hint}"
        )


def files_of(described: dict[str, Any]) -> list[str]:
    """Relative names of all files that a model needs, given what its config.json holds."""
    return [CONFIG, WEIGHTS, *(f"{LM}/{name}" for name in described["config"].get(LM_FILES) or {})]


def local_folder(where: str | Path) -> Path:
    """The folder of a model, or of the one in a training output (`model/`), fetched if it is at a URL or on the hub, see
    `sar3d.hub.source.Source`.

    Raises:
        UserError: there is no model, or the source cannot be reached.
    """
    source = Source(where)
    if source.local:
        return folder_of(where)
    for place in ("", "model/"):
        source.fetch([f"{place}{CONFIG}"])
        if (source.root / place / CONFIG).is_file():
            source.fetch(f"{place}{name}" for name in files_of(describe_config(source.root / place)))
            return folder_of(source.root / place)
    raise UserError(f"{where} holds no model: it has no {CONFIG}")


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
