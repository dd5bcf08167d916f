"""Generators: transformers with the encoders of their prompts, loaded and checked."""

from dataclasses import dataclass
from pathlib import Path

import torch

from sar3d import hub
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions import ConditionEncoder, load_encoder
from sar3d.conditions.condition import Condition
from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import UserError
from sar3d.generate.folders import PUBLISHED_ENCODERS, Folders
from sar3d.vqvae.config import QuantizerConfig
from sar3d.working import working_on


@dataclass(frozen=True)
class Generator:
    """One loaded transformer, and the encoder of its prompts."""

    model: ARTransformer
    digest: str
    encoder: ConditionEncoder
    empty: Condition
    """B = 1: no prompt, for guidance."""


def load_generator(folders: Folders, kind: ConditionKind, device: torch.device, weights: str) -> Generator:
    """The generator for one kind of prompt.

    Args:
        weights: of its encoder, if they are elsewhere.

    Raises:
        UserError: there is none, or the encoder is not the one that it was trained with.
    """
    folder = folders.generators.get(kind)
    if folder is None:
        what = "texts" if kind == "text" else "pictures"
        raise UserError(f"there is no generator for {what} in {folders.where}: give a model that has one")
    working_on(f"loading the generator of {folder} and its encoder")
    encoder = _encoder(kind, folder, device, weights)
    model = hub.from_pretrained(folder, device, kind="ar").requires_grad_(False)
    return Generator(model, hub.digest(folder), encoder, encoder.empty().float())


def _encoder(kind: ConditionKind, folder: Path, device: torch.device, given: str) -> ConditionEncoder:
    """The encoder that the generator in `folder` was trained with."""
    described = hub.describe(folder)
    extra, config = described.get("extra") or {}, described["config"]
    name = extra.get("encoder") or PUBLISHED_ENCODERS[kind]
    weights = given or extra.get("encoder_weights") or ""
    encoder = load_encoder(name, weights, device, f"{kind}_weights")
    trained = extra.get("encoder_id")
    if trained and encoder.id != trained:
        raise UserError(
            f"the generator in {folder} was trained with the encoder {trained}, but the weights here are {encoder.id}: "
            f"set {kind}_weights to the folder of the ones it was trained with"
        )
    widths = (encoder.shape[1], encoder.width)
    wanted = (config.get("context_dim"), config.get("pooled_dim"))
    if widths != wanted:
        raise UserError(
            f"the generator in {folder} takes conditions of {wanted[0]} and {wanted[1]} numbers, but {name} gives "
            f"{widths[0]} and {widths[1]}: set {kind}_weights to weights of the right size"
        )
    return encoder


def check_generator(folders: Folders, kind: ConditionKind, vqvae: str, quantizer: QuantizerConfig) -> None:
    """Raise `UserError` unless a generator belongs to the VQVAE of that digest and quantizer; nothing but its config.json
    is read.
    """
    folder = folders.generators[kind]
    described = hub.describe(folder)
    if described["kind"] != "ar":
        raise UserError(f"{folder} holds a model of kind {described['kind']}: give the folder of a generator (ar)")
    config, extra = described["config"], described.get("extra") or {}
    if config.get("condition") != kind:
        raise UserError(
            f"the generator in {folder} takes {config.get('condition')} conditions, not {kind}: give it as the other one"
        )
    hub.check_tokens(f"the generator in {folder}", extra.get("vqvae"), str(folders.vqvae), vqvae)
    ours = {
        "codebook_size": quantizer.codebook_size,
        "code_dim": quantizer.code_dim,
        "scales": list(quantizer.scales),
    }
    for name, value in ours.items():
        theirs = config.get(name)
        theirs = list(theirs) if isinstance(theirs, list | tuple) else theirs
        if theirs != value:
            raise UserError(
                f"the generator in {folder} was made for a VQVAE with {name} {theirs}, but the one in "
                f"{folders.vqvae} has {value}: give the VQVAE that it was trained with"
            )
