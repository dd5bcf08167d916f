"""Evaluation of a generator: likelihood of held-out tokens, quality of what it generates, retrieval of prompted objects."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from sar3d.ar.decoding_config import DECODINGS, Decoding
from sar3d.ar.sampling import generate
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions import ConditionEncoder
from sar3d.conditions.condition import Condition
from sar3d.data.datasets.prompted_objects import PromptedObject
from sar3d.metrics.image import psnr
from sar3d.tasks.ar.likelihood import likelihood, next_inputs, sequential_code_vectors
from sar3d.training.task import Sync, worker_slice
from sar3d.vqvae.cameras import rays_of
from sar3d.vqvae.model import VQVAE
from sar3d.vqvae.occupancy import occupancy_of
from sar3d.vqvae.volume import render

Metrics = dict[str, float]

EQUAL = 100.0
"""PSNR in dB reported for equal pictures, whose PSNR is infinite."""

_CELLS = 32
"""Side of the occupancy grid by which empty space is skipped."""


@dataclass(frozen=True)
class GenerationSets:
    """What a generator is asked for. Picklable."""

    sets: Mapping[str, Sequence[PromptedObject]] = field(default_factory=dict)
    """By name; sequences may load lazily. `known`: objects it was trained on. `objects`: unseen ones."""
    decoding: Decoding = DECODINGS["greedy"]
    """How it generates."""
    pictures: int = 8
    """Objects of each set that are drawn."""
    batch: int = 8
    """Prompts that are generated at once."""
    side: int = 64
    """Side of the pictures by which generated objects are told apart, at most that of the views."""


class Prompts:
    """Conditions of objects' prompts: as they were cached, or made now of their pictures."""

    def __init__(self, load: Callable[[], ConditionEncoder], device: torch.device) -> None:
        self._load, self._device = load, device
        self._encoder: ConditionEncoder | None = None

    def __call__(self, prompted: PromptedObject) -> Condition:
        """Of the object's P prompts, float32 of what half precision keeps."""
        if prompted.condition is not None and prompted.pooled is not None:
            return Condition(prompted.condition.float(), prompted.pooled.float()).to(self._device)
        assert prompted.pictures is not None
        self._encoder = self._encoder or self._load()
        pixels = (rearrange(prompted.pictures, "p c h w -> p h w c") * 255).round().byte().numpy()
        features = self._encoder.encode(pixels)
        tokens, pooled = (x.half().float().to(self._device).clone() for x in (features.tokens, features.pooled))
        return Condition(tokens, pooled)


class FieldRenderer:
    """Pictures of one object's field from any camera; its empty space is found once."""

    @torch.no_grad()
    def __init__(self, vqvae: VQVAE, planes: Float[Tensor, "1 3 C R R"]) -> None:
        self._field, self._volume = vqvae.field(planes), vqvae.config.volume
        self._empty = occupancy_of(self._field, resolution=_CELLS, device=planes.device)

    @torch.no_grad()
    def __call__(self, cameras: Float[Tensor, "V 25"], side: int) -> Float[Tensor, "V 3 side side"]:
        """Colors in [0, 1] on white."""
        rays = rays_of(cameras.to(self._empty.raw.device), side, side)
        seen = render(self._field, rays.flat(), self._volume, occupancy=self._empty)
        return rearrange(seen.rgb, "1 (v h w) c -> v c h w", v=len(cameras), h=side).clamp(0, 1)


@dataclass(frozen=True)
class _Candidate:
    """One object as it should look, small, from its V cameras."""

    label: str
    cameras: Float[Tensor, "V 25"]
    target: Float[Tensor, "V 3 s s"]
    reconstruction: Float[Tensor, "V 3 s s"]


@torch.no_grad()
def evaluate(
    model: ARTransformer, vqvae: VQVAE, empty: Condition, held_out: GenerationSets, sync: Sync, prompts: Prompts
) -> dict[str, float]:
    """Metrics `<set>/<metric>` as means over prompts, of which each worker measures a part; all workers get the same.

    `ce` and `accuracy`: of the object's own codes, given all coarser ones and the prompt; also by scale.
    `psnr_truth` and `psnr_reconstruction`: what is generated against the true views, and against the rendering of the
    object's own codes (at most `EQUAL`, where the codes are the same); `reconstruction_psnr`: these against the true views,
    which is what can be reached.
    `nearest_truth` and `nearest_reconstruction`: share of prompts for which, of all objects of the set, the one asked
    for is the nearest by mean PSNR over its views; objects of the same caption count as one.
    """
    found: dict[str, float] = {}
    with torch.autocast(next(model.parameters()).device.type, enabled=False):
        for name, objects in held_out.sets.items():
            mine = [objects[i] for i in worker_slice(len(objects), sync)]
            candidates = [_candidate(vqvae, prompted, held_out.side) for prompted in mine]
            everyone = [c for part in sync.gather_objects([c for c, _ in candidates]) for c in part]
            first = worker_slice(len(objects), sync).start
            rows = []
            for number, (prompted, (_, row)) in enumerate(zip(mine, candidates, strict=True), first):
                rows += _rows(model, vqvae, empty, held_out, prompted, prompts(prompted), everyone, number, row)
            rows = [row for part in sync.gather_objects(rows) for row in part]
            found |= {f"{name}/{metric}": value for metric, value in _means(rows).items()}
    return found


def _rows(
    model: ARTransformer,
    vqvae: VQVAE,
    empty: Condition,
    held_out: GenerationSets,
    prompted: PromptedObject,
    condition: Condition,
    candidates: Sequence[_Candidate],
    number: int,
    row: Metrics,
) -> list[Metrics]:
    """Metrics of an object's prompts; `row` holds those that no prompt changes."""
    expected = _expected(model, vqvae, prompted.tokens, condition)
    made = make(model, vqvae, condition, empty, held_out.decoding, [number] * len(condition), held_out.batch)
    side = prompted.target.image.shape[-1]
    rows = []
    for look in made:
        near = _nearness(look, candidates)
        mine = look(prompted.target.cameras, side).cpu()
        rows.append(
            row
            | expected
            | {
                "psnr_truth": float(psnr(mine, (prompted.target.image + 1) / 2).mean()),
                "psnr_reconstruction": min(float(near["reconstruction"][number]), EQUAL),
                **{f"nearest_{kind}": _right(values, candidates, number) for kind, values in near.items()},
            }
        )
    return rows


@torch.no_grad()
def make(
    model: ARTransformer,
    vqvae: VQVAE,
    condition: Condition,
    empty: Condition,
    decoding: Decoding,
    seeds: Sequence[int],
    batch: int = 8,
) -> Iterator[FieldRenderer]:
    """What is generated for each condition."""
    for start in range(0, len(condition), batch):
        part = range(start, min(start + batch, len(condition)))
        made = generate(model, vqvae.quantizer, condition.select(list(part)), empty, [seeds[i] for i in part], decoding)
        planes = vqvae.decode(made.f_hat)
        for one in planes.split(1):
            yield FieldRenderer(vqvae, one)


def _candidate(vqvae: VQVAE, prompted: PromptedObject, side: int) -> tuple[_Candidate, Metrics]:
    cameras, target = prompted.target.cameras, (prompted.target.image + 1) / 2
    look = FieldRenderer(vqvae, decoded(vqvae, prompted.tokens))
    full = look(cameras, target.shape[-1]).cpu()
    row = {"reconstruction_psnr": float(psnr(full, target).mean())}
    side = min(side, target.shape[-1])
    small = full if side == target.shape[-1] else look(cameras, side).cpu()
    pooled = target if side == target.shape[-1] else F.interpolate(target, (side, side), mode="area")
    return _Candidate(prompted.label, cameras, pooled, small), row


@torch.no_grad()
def decoded(vqvae: VQVAE, tokens: Int64[Tensor, " L"]) -> Float[Tensor, "1 3 C R R"]:
    """The triplane of one object's codes."""
    device = next(vqvae.parameters()).device
    return vqvae.decode_tokens(tokens[None].to(device))


def _nearness(look: FieldRenderer, candidates: Sequence[_Candidate]) -> dict[str, Float[Tensor, " N"]]:
    """Mean PSNR of an object, seen by each candidate's cameras, against that candidate's pictures."""
    side, first = candidates[0].target.shape[-1], candidates[0].cameras
    if all(torch.equal(c.cameras, first) for c in candidates):
        views = [look(first, side).cpu()] * len(candidates)
    else:
        views = [look(c.cameras, side).cpu() for c in candidates]
    pairs = list(zip(views, candidates, strict=True))
    return {
        "truth": torch.stack([psnr(seen, c.target).mean() for seen, c in pairs]),
        "reconstruction": torch.stack([psnr(seen, c.reconstruction).mean() for seen, c in pairs]),
    }


def _right(values: Float[Tensor, " N"], candidates: Sequence[_Candidate], number: int) -> float:
    best = int(values.argmax())
    label = candidates[number].label
    return float(best == number or (bool(label) and candidates[best].label == label))


def _expected(model: ARTransformer, vqvae: VQVAE, tokens: Int64[Tensor, " L"], condition: Condition) -> Metrics:
    """Cross-entropy and accuracy of an object's codes, as means over its prompts."""
    device = condition.pooled.device
    known = tokens.to(device).expand(len(condition), -1)
    quantizer = vqvae.quantizer
    logits = model(
        next_inputs(quantizer, known), condition, code_vectors=sequential_code_vectors(quantizer, known, model.config)
    )
    found = likelihood(logits, known, model.config.scales)
    return {"ce": float(found.loss)} | {name: float(value) for name, value in found.metrics.items()}


def _means(rows: Sequence[Metrics]) -> Metrics:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}
