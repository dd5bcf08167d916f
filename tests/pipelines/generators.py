"""Untrained generator systems for tests of generation: small, quick, and complete."""

import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from rendered import model as vqvae_folder

from sar3d import hub
from sar3d.ar.config import ARConfig, preset
from sar3d.ar.decoding_config import decoding as decoding
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions import encoder_id
from sar3d.conditions.kinds import ConditionKind
from sar3d.llm.config import LLMConfig, RandomLMConfig
from sar3d.llm.language_model import random_lm, tokenizer_of, train_tokenizer
from sar3d.llm.model import assemble
from sar3d.vqvae.config import PRESETS

ENCODERS = {"text": ("minilm", 384), "image": ("efficientnet-lite0", 1280)}
EXPORT: dict[str, Any] = {"grid": 24, "frames": 2, "resolution": 16, "texture": 32, "level": 5.2}
"""Small files; the density lies inside the range that an untrained field has."""


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sar3d-generators-")


def generator_config(kind: ConditionKind, width: int, **changes: Any) -> ARConfig:
    """A transformer of one narrow block for the codes of the `tiny` VQVAE."""
    quantizer = PRESETS["tiny"].quantizer
    sizes = {"context_dim": width, "pooled_dim": width}
    made = preset(
        "tiny",
        kind,
        codebook_size=quantizer.codebook_size,
        code_dim=quantizer.code_dim,
        scales=quantizer.scales,
        **sizes,
    )
    return dataclasses.replace(made, depth=1, width=32, heads=2, gate_init=1.0, **changes)


def save_generator(folder: Path, config: ARConfig, seed: int = 0, extra: dict[str, Any] | None = None) -> Path:
    """A generator with random weights; its head is loud, so that what is drawn depends on the prompt."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ARTransformer(config)
        with torch.no_grad():
            model.head.linear.weight.mul_(400)
        hub.save_pretrained(model, folder, extra=extra)
    return folder


def trained_with(kind: ConditionKind) -> dict[str, Any]:
    """What training notes beside a generator."""
    name = ENCODERS[kind][0]
    made_for = hub.digest(vqvae_folder())
    return {"vqvae": made_for, "encoder": name, "encoder_weights": "", "encoder_id": encoder_id(name)}


@functools.cache
def bundle() -> Path:
    """A folder with a VQVAE, a generator for texts and one for pictures."""
    folder = Path(_scratch().name, "bundle")
    shutil.copytree(vqvae_folder(), folder / "vqvae")
    kinds: tuple[ConditionKind, ...] = ("text", "image")
    for kind in kinds:
        config = generator_config(kind, ENCODERS[kind][1])
        save_generator(folder / f"ar_{kind}", config, extra=trained_with(kind))
    return folder


def captioner(folder: Path, vqvae: str) -> Path:
    """The folder of a captioner of random weights."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of(train_tokenizer(["a red cup", "a brown chair"], 300))
    lm = random_lm(RandomLMConfig(width=32, layers=1, heads=2), tokenizer)
    quantizer = PRESETS["tiny"].quantizer
    config = LLMConfig(
        quantizer.codebook_size,
        quantizer.code_dim,
        quantizer.scales,
        num_scales=3,
        projector=(8,),
        width=32,
        template="plain",
    )
    hub.save_pretrained(
        assemble(config, torch.randn(quantizer.codebook_size, quantizer.code_dim), lm, tokenizer),
        folder,
        {"vqvae": vqvae},
    )
    return folder
