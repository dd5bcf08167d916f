"""A model's folder: model.safetensors and config.json."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch
from safetensors import SafetensorError

from sar3d.ar import config as ar_config
from sar3d.ar.transformer import ARTransformer
from sar3d.errors import UserError
from sar3d.hub import llm
from sar3d.hub.ar import empty_transformer
from sar3d.hub.files import load_strictly, read_safetensors
from sar3d.hub.folder import FORMAT, WEIGHTS, describe, local_folder, write_folder
from sar3d.llm.model import SAR3DLM
from sar3d.vqvae import config as vqvae_config
from sar3d.vqvae import flexi_config
from sar3d.vqvae.flexi_model import FlexiVQVAE
from sar3d.vqvae.model import VQVAE

Model = VQVAE | FlexiVQVAE | ARTransformer | SAR3DLM
"""Every kind of model that can be saved and loaded."""


@dataclass(frozen=True)
class ModelKind:
    """How one kind of model becomes values of config.json and back."""

    model: type[Model]
    config: Callable[[Any], dict[str, Any]]
    build: Callable[[dict[str, Any]], Model]
    """A model whose weights may be anything. Raises `UserError` for values that are wrong."""


MODEL_KINDS: dict[str, ModelKind] = {
    "vqvae": ModelKind(
        model=VQVAE,
        config=lambda model: vqvae_config.to_dict(model.config),
        build=lambda values: VQVAE(vqvae_config.from_dict(values)),
    ),
    "flexicubes": ModelKind(
        model=FlexiVQVAE,
        config=lambda model: flexi_config.to_dict(model.flexi_config),
        build=lambda values: FlexiVQVAE(flexi_config.from_dict(values)),
    ),
    "ar": ModelKind(
        model=ARTransformer,
        config=lambda model: ar_config.to_dict(model.config),
        build=lambda values: empty_transformer(ar_config.from_dict(values)),
    ),
}

LLM = "llm"
"""A kind whose folder holds a language model as well; `sar3d.hub.llm` saves and loads it."""


def save_pretrained(model: Model, folder: str | Path, extra: dict[str, Any] | None = None) -> None:
    """Write the model's folder with a model card. config.json comes last, so a folder that has one is complete.

    Args:
        model: of one of the `MODEL_KINDS`.
        folder: made if need be; a model in it is replaced.
        extra: JSON values of the caller's own, kept in config.json.

    Raises:
        UserError: the folder cannot be written.
        TypeError: the model is of no known kind.
    """
    if isinstance(model, SAR3DLM):
        return llm.save(model, folder, extra)
    kind = next((name for name, k in MODEL_KINDS.items() if type(model) is k.model), None)
    if kind is None:
        raise TypeError(f"{type(model).__name__} is no kind of model that can be saved: {', '.join(MODEL_KINDS)}")
    described = {"kind": kind, "format": FORMAT, "config": MODEL_KINDS[kind].config(model), "extra": extra or {}}
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    try:
        write_folder(Path(folder), tensors, described)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the model cannot be saved in {folder} ({error}): choose a folder that can be written"
        ) from error


@overload
def from_pretrained(where: str | Path, device: str | torch.device = "cpu", *, kind: Literal["vqvae"]) -> VQVAE: ...


@overload
def from_pretrained(
    where: str | Path, device: str | torch.device = "cpu", *, kind: Literal["flexicubes"]
) -> FlexiVQVAE: ...


@overload
def from_pretrained(where: str | Path, device: str | torch.device = "cpu", *, kind: Literal["ar"]) -> ARTransformer: ...


@overload
def from_pretrained(where: str | Path, device: str | torch.device = "cpu", *, kind: Literal["llm"]) -> SAR3DLM: ...


@overload
def from_pretrained(where: str | Path, device: str | torch.device = "cpu", *, kind: str | None = None) -> Any: ...


def from_pretrained(where: str | Path, device: str | torch.device = "cpu", *, kind: str | None = None) -> Model:
    """A saved model, in evaluation mode. No random numbers are used up.

    Args:
        where: the folder, or the model.safetensors in it; a URL that fsspec reads; or `owner/name` of the Hugging Face
            hub, with `@revision` if need be.
        device: where the model goes.
        kind: the only kind of model that will do.

    Raises:
        UserError: no such folder, a damaged file, another kind of model, tensors that do not fit, a place that cannot
            be reached; nothing is loaded.
    """
    folder = local_folder(where)
    described = describe(folder)
    if kind is not None and described["kind"] != kind:
        raise UserError(f"{folder} holds a model of kind {described['kind']}, not {kind}: give the folder of a {kind}")
    if described["kind"] == LLM:
        return llm.load(folder, device)
    tensors = read_safetensors(folder / WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        model = MODEL_KINDS[described["kind"]].build(described["config"])
    load_strictly(model, tensors, str(folder / WEIGHTS))
    return model.to(device).eval()
