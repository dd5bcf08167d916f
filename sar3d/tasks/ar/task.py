"""Training the generator: what one step computes (paper section 3.2; published.md, transformer)."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float16, Int64
from torch import Tensor, nn

from sar3d import hub
from sar3d.ar.config import ARConfig
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions import ConditionEncoder, load_encoder
from sar3d.conditions.condition import Condition, PooledStatistics
from sar3d.data.datasets.token_dataset import TokenSample
from sar3d.errors import UserError
from sar3d.seeds import SampleKey
from sar3d.tasks.ar.config import ARTaskConfig
from sar3d.tasks.ar.contact_sheet import draw
from sar3d.tasks.ar.evaluate import GenerationSets, Prompts, evaluate
from sar3d.tasks.ar.flops import peak_flops, training_flops
from sar3d.tasks.ar.likelihood import likelihood, next_inputs, sequential_code_vectors
from sar3d.training.settings import TrainSettings
from sar3d.training.task import Losses, Sync, Task
from sar3d.vqvae.model import VQVAE
from sar3d.vqvae.quantizer import MultiScaleQuantizer

_BRANCHES = 3
"""Residual branches of a block, each of which stochastic depth may skip."""


@dataclass(frozen=True)
class ARBatch:
    """One micro-batch of B objects."""

    tokens: Int64[Tensor, "B L"]
    condition: Float16[Tensor, "B N Cc"]
    """Tokens of the conditions, some of them empty."""
    pooled: Float16[Tensor, "B Cp"]
    drop: Float[Tensor, "B depth 3"]
    """Uniform numbers that decide which residual branches are skipped."""


@dataclass(frozen=True)
class FrozenVQVAE:
    """The model that made the codes, not loaded; picklable."""

    folder: Callable[[], Path]
    """Finds its folder on the machine where it is called."""
    digest: str
    """See `sar3d.hub.digest`."""

    def load(self, device: torch.device | str) -> VQVAE:
        """Raises `UserError` where the folder holds another model than the codes were made with."""
        folder = self.folder()
        found = hub.digest(folder)
        if found != self.digest:
            raise UserError(
                f"{folder} holds the VQVAE {found[:16]}, but the codes were made by {self.digest[:16]}: "
                "cache the tokens again, or give the VQVAE that made them"
            )
        model = hub.from_pretrained(folder, device, kind="vqvae")
        assert isinstance(model, VQVAE)
        return model.requires_grad_(False)


@dataclass(frozen=True)
class EncoderSource:
    """The encoder that made the conditions, not loaded; picklable. Kept in the exported model's config.json."""

    name: str
    """One of `sar3d.conditions.ENCODERS`."""
    weights: str
    """Folder or repository of its weights; empty: the usual ones."""
    id: str
    """Name and digest of its weights."""

    def load(self, device: torch.device | str) -> ConditionEncoder:
        """Raises `UserError` where the weights cannot be had, or are not those that made the conditions."""
        encoder = load_encoder(self.name, self.weights, device)
        if encoder.id != self.id:
            raise UserError(
                f"the encoder {self.name} here is {encoder.id}, but the conditions were made by {self.id}: "
                "cache the conditions again, or bring the weights that made them"
            )
        return encoder


class ARTask(Task):
    """The next-scale transformer: codes of an object given its condition, scale after scale.

    Args:
        config: how it is trained.
        model: what is trained; `model_config` makes it.
        vqvae: the frozen model that made the codes. Every worker loads it and checks that it is the one.
        encoder: what made the conditions.
        empty: the encoder's empty condition, a batch of one.
        statistics: of the pooled vectors that it is trained on, to begin with (`config.pooled_start`).
    """

    name = "ar"

    def __init__(
        self,
        config: ARTaskConfig,
        model: ARConfig,
        vqvae: FrozenVQVAE,
        encoder: EncoderSource,
        empty: Condition,
        statistics: PooledStatistics | None = None,
    ) -> None:
        self.config, self.model_config = config, model
        self.vqvae, self.encoder = vqvae, encoder
        self.empty = Condition(empty.tokens.half(), empty.pooled.half())
        self.statistics = statistics if config.pooled_start == "standardized" else None
        self._quantizer: MultiScaleQuantizer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_quantizer": None}

    def build(self) -> ARTransformer:
        self._frozen_quantizer("cpu")  # another VQVAE is refused before anything is computed
        model = ARTransformer(self.model_config)
        if self.statistics is not None:
            model.standardize(self.statistics)
        model.attention = None if self.config.attention == "auto" else self.config.attention
        model.checkpoint_activations = self.config.checkpoint_activations
        return model

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        decayed = [p for name, p in model.named_parameters() if decays(name, p)]
        rest = [p for name, p in model.named_parameters() if not decays(name, p)]
        return [
            {"params": decayed, "lr": self.config.lr, "weight_decay": self.config.weight_decay},
            {"params": rest, "lr": self.config.lr, "weight_decay": 0.0},
        ]

    def discriminator_groups(self, discriminator: nn.Module) -> list[dict[str, Any]]:
        raise TypeError("the generator has no discriminator")

    def collate(self, samples: list[TokenSample], step: int, keys: list[SampleKey]) -> ARBatch:
        conditions, pooled, drop = [], [], []
        for sample, key in zip(samples, keys, strict=True):
            if sample.condition is None or sample.pooled is None:
                raise UserError(f"{sample.uid} has no condition: cache the conditions, and name their kind in data")
            generator = key.generator()
            no_pooled, no_tokens = self._dropped(generator)
            conditions.append(self.empty.tokens[0] if no_tokens else sample.condition)
            pooled.append(self.empty.pooled[0] if no_pooled else sample.pooled)
            drop.append(torch.rand(self.model_config.depth, _BRANCHES, generator=generator))
        tokens = torch.stack([sample.tokens for sample in samples])
        return ARBatch(tokens, torch.stack(conditions), torch.stack(pooled), torch.stack(drop))

    def losses(self, model: nn.Module, batch: ARBatch, step: int, discriminator: nn.Module | None = None) -> Losses:
        scales = self.scales_at(step)
        quantizer = self._frozen_quantizer(batch.tokens.device)
        inputs = next_inputs(quantizer, batch.tokens, scales)
        known = sequential_code_vectors(quantizer, batch.tokens, self.model_config)
        condition = Condition(batch.condition.float(), batch.pooled.float())
        logits = model(inputs, condition, code_vectors=known, scales=scales, drop=batch.drop)
        found = likelihood(logits, batch.tokens, self.model_config.scales[:scales], weighting=self.config.weighting)
        return Losses(found.loss, {"loss": found.loss.detach(), **found.metrics})

    def scales_at(self, step: int) -> int:
        """How many scales a step (from 0) takes."""
        progressive, whole = self.config.progressive, len(self.model_config.scales)
        return whole if not progressive.scales or (step + 1) % progressive.full_every == 0 else progressive.scales

    def speed(
        self, samples_per_second: float, settings: TrainSettings, device: torch.device, workers: int
    ) -> dict[str, float]:
        """`tokens_per_second`, and `mfu`, the share of the devices' peak that the model's own arithmetic comes to.

        There is no `mfu` where the peak is not known. Short steps (`progressive`) count as what they are.
        """
        config, progressive = self.model_config, self.config.progressive
        # In `full_every` steps one takes all scales and the others those of a short step.
        scales = config.scales[: progressive.scales or len(config.scales)]
        short = dataclasses.replace(config, scales=scales, sequential_scales=min(config.sequential_scales, len(scales)))
        part = 1 / progressive.full_every
        found = {"tokens_per_second": samples_per_second * (part * config.tokens + (1 - part) * short.tokens)}
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        peak = peak_flops(name, settings.precision)
        if peak is not None:
            whole, less = (training_flops(one, self.empty.tokens.shape[1]) for one in (config, short))
            found["mfu"] = samples_per_second * (part * whole + (1 - part) * less) / (peak * workers)
        return found

    def evaluate(self, model: nn.Module, held_out: GenerationSets, sync: Sync) -> dict[str, float]:
        transformer, device = _transformer(model), _device(model)
        return evaluate(
            transformer, self.vqvae.load(device), self._empty(device), held_out, sync, self._prompts(device)
        )

    def draw(self, model: nn.Module, held_out: GenerationSets) -> dict[str, bytes]:
        transformer, device = _transformer(model), _device(model)
        return draw(transformer, self.vqvae.load(device), self._empty(device), held_out, self._prompts(device))

    def export(self, model: nn.Module, folder: Path) -> None:
        made_by = {
            "vqvae": self.vqvae.digest,
            "encoder": self.encoder.name,
            "encoder_weights": self.encoder.weights,
            "encoder_id": self.encoder.id,
        }
        hub.save_pretrained(_transformer(model), folder, extra=made_by)

    def _dropped(self, generator: torch.Generator) -> tuple[bool, bool]:
        """Whether a sample loses the pooled vector and the tokens of its condition."""
        pooled, tokens = (torch.rand(2, generator=generator) < self.config.dropout.p).tolist()
        return (pooled, pooled) if self.config.dropout.kind == "joint" else (pooled, tokens)

    def _frozen_quantizer(self, device: torch.device | str) -> MultiScaleQuantizer:
        """The frozen quantizer."""
        if self._quantizer is None:
            self._quantizer = self.vqvae.load("cpu").quantizer
        return self._quantizer.to(device)

    def _empty(self, device: torch.device) -> Condition:
        return Condition(self.empty.tokens.float(), self.empty.pooled.float()).to(device)

    def _prompts(self, device: torch.device) -> Prompts:
        return Prompts(lambda: self.encoder.load(device), device)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter has weight decay: matrices and the plane embedding, but not where a token stands
    (published.md, transformer).
    """
    return parameter.ndim >= 2 and name not in ("pos_embed", "scale_embed", "sequential.pos_embed")


def _transformer(model: nn.Module) -> ARTransformer:
    """What is inside a wrapper for distributed training."""
    inner = getattr(model, "module", model)
    assert isinstance(inner, ARTransformer)
    return inner


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
