"""Reading files of tensors that somebody else wrote: nothing in them is executed, and what is damaged is refused."""

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from sar3d.errors import UserError

Tensors = dict[str, Tensor]

_WRAPPERS = ("state_dict", "model", "ema", "trainer", "var_wo_ddp")
"""Keys under which checkpoints keep their tensors; the last two are the published transformers'."""


def read_tensors(path: Path) -> Tensors:
    """The tensors of a .safetensors file, or of a PyTorch file: flat, or under `state_dict`, `model` or `ema`.

    Raises:
        UserError: there is no such file, it is damaged, it holds code, or it holds no tensors.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}: give the path of a checkpoint (.pt, .pth or .safetensors)")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return _flat(_read_pickle(path), path)


def read_safetensors(path: Path) -> Tensors:
    """The tensors of a .safetensors file, on the CPU. Raises `UserError` for one that is damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or no safetensors file ({error}): fetch or save it again") from error


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Mapped, what is not used is not read: published transformers lie beside their optimizer's state.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        # A damaged file breaks the unpickler wherever it stumbles: nearly any exception may come out.
        if called := _code_in(path, error):
            raise UserError(
                f"{path} holds more than tensors: loading it would call {called}, so nothing was loaded; "
                "ask for a file of tensors alone (.safetensors)"
            ) from error
        raise UserError(f"{path} is damaged or no PyTorch checkpoint: fetch it again") from error


def _code_in(path: Path, error: Exception) -> str | None:
    """What loading a file would call that `torch.load` has refused, if it is that; nothing is executed."""
    if not isinstance(error, pickle.UnpicklingError):
        return None
    try:
        unsafe = sorted(get_unsafe_globals_in_checkpoint(path), key=lambda name: (name.startswith("torch."), name))
    except (ValueError, EOFError, pickle.UnpicklingError):  # the layout before 2020, or opcodes that torch never writes
        unsafe = re.findall(r"GLOBAL (\S+)", str(error))
    return unsafe[0] if unsafe else None


def _flat(loaded: Any, path: Path) -> Tensors:
    while isinstance(loaded, Mapping) and (key := next((k for k in _WRAPPERS if k in loaded), None)):
        loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise UserError(f"{path} holds no dictionary of tensors: give a checkpoint of weights")
    other = next((str(k) for k, v in loaded.items() if not isinstance(v, Tensor)), None)
    if other is not None:
        keys = ", ".join(str(k) for k in list(loaded)[:5])
        raise UserError(
            f"{path} holds no flat dictionary of tensors ({other} is none; it has {keys}): give weights alone"
        )
    prefix = "module." if all(str(name).startswith("module.") for name in loaded) else ""
    return {str(name).removeprefix(prefix): tensor for name, tensor in loaded.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `UserError` for a file that holds none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): fetch or save the model again") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object: fetch or save the model again")
    return values


def load_strictly(model: nn.Module, tensors: Tensors, source: str) -> None:
    """Copy tensors into a model whose names and shapes they have exactly; nothing is copied otherwise.

    Raises:
        UserError: a tensor is missing, unknown, of another shape, or not of the kind of number the model has.
    """
    expected = model.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise UserError(f"{source} lacks {_some(missing)}: it is incomplete or of another model")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise UserError(f"{source} has {_some(unknown)}, which the model has not: it is of another model")
    for name, tensor in expected.items():
        given = tensors[name]
        if given.shape != tensor.shape:
            raise UserError(
                f"{source} has the tensor {name} as {list(given.shape)} where the model has {list(tensor.shape)}: "
                "it is of a model of another size"
            )
        if given.is_floating_point() != tensor.is_floating_point():
            raise UserError(
                f"{source} has the tensor {name} in {given.dtype}, not {tensor.dtype}: it is of another model"
            )
    model.load_state_dict(tensors)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"the tensor {names[0]}{more}"
