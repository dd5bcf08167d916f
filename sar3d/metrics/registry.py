"""Which metrics are measured of what. One entry is one metric: a further one needs no other change (docs/evaluate.md).

A metric works in two steps. `measure` gives numbers of one object, where its pictures and its field are at hand: its
value, or its features. `total` makes one value of the numbers of all objects: their mean, or a distance of features.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sar3d.metrics.captions import CaptionMetrics, caption_metrics
from sar3d.metrics.geometry import depth_error, mask_iou, normal_error, visible_chamfer
from sar3d.metrics.image import foreground_psnr, psnr, ssim
from sar3d.metrics.lpips import PerceptualLoss

if TYPE_CHECKING:
    from sar3d.conditions import ConditionEncoder
    from sar3d.vqvae.field import Field

OURS = "ours"
"""What the model made; everything else that is shown is a baseline."""
TARGET = "target"
"""The name for features of the target, which `total` compares others with; it is no row of the table."""

Better = Literal["higher", "lower"]
Numbers = Mapping[str, Mapping[str, Sequence[float]]]
"""Of one object: by metric, then by what was measured (`ours`, a baseline, `target`)."""
Record = dict[str, Any]
"""The same as rows hold it: `entry` (its key in the registry), `metric`, `of`, `value` (numbers)."""


@dataclass(frozen=True)
class Pictures:
    """V pictures of one object."""

    rgb: Float[Tensor, "V 3 H W"]
    """In [0, 1] on white."""
    opacity: Float[Tensor, "V H W"] | None = None
    """Coverage in [0, 1]."""
    depth: Float[Tensor, "V H W"] | None = None
    """z-depth; of the target 0 where there is nothing."""
    normal: Float[Tensor, "V 3 H W"] | None = None
    """In the world frame."""


@dataclass(frozen=True)
class Subject:
    """One object: what it should look like, and what is shown in its stead."""

    target: Pictures
    shown: Mapping[str, Pictures]
    """From the same cameras: `ours`, and baselines by name."""
    prompt: str = ""
    """The text that was asked for; empty for none."""
    told: Mapping[str, str] = field(default_factory=dict)
    """Captions of what is shown."""
    field: "Field | None" = None
    """Of `ours`, for metrics of shape."""
    cameras: Float[Tensor, "V 25"] | None = None
    """Of the pictures; without them points of surfaces are not known."""


@dataclass(frozen=True)
class Tools:
    """Models that metrics use; a metric without its tool gives no number."""

    perceptual: PerceptualLoss | None = None
    image_encoder: "ConditionEncoder | None" = None
    text_encoder: "ConditionEncoder | None" = None


def mean_of_objects(numbers: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, float]:
    """The mean over objects of the single number of each; what could not be measured (NaN) does not count."""
    found = {}
    for of, values in numbers.items():
        known = [value[0] for value in values if not math.isnan(value[0])]
        if known:
            found[of] = math.fsum(known) / len(known)
    return found


def worst_of_objects(numbers: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, float]:
    """The least number of any object; what could not be measured (NaN) does not count."""
    found = {}
    for of, values in numbers.items():
        known = [value[0] for value in values if not math.isnan(value[0])]
        if known:
            found[of] = min(known)
    return found


@dataclass(frozen=True)
class Metric:
    """One entry: a metric, or a few that are measured together."""

    measure: Callable[[Subject, Tools], Numbers]
    """Numbers of one object; empty where there are none."""
    better: Better = "higher"
    total: Callable[[Mapping[str, Sequence[Sequence[float]]]], Mapping[str, float]] = mean_of_objects
    """From the numbers of all objects, by what was measured, to one value each; called for each metric."""


@dataclass(frozen=True)
class Total:
    """One metric over all objects."""

    metric: str
    values: dict[str, float]
    """By what was measured."""
    better: Better
    objects: int
    """Objects that it was measured on."""


@dataclass(frozen=True)
class CaptionBatch:
    """N captions, and what they should say."""

    captions: Sequence[str]
    references: Sequence[Sequence[str]]
    names: Sequence[str]
    categories: Sequence[str]
    known: Sequence[tuple[str, str]] = ()
    """Names and categories of training objects, which captions may name."""


def measure(subject: Subject, metrics: Mapping[str, Metric], tools: Tools) -> list[Record]:
    """The numbers of one object by all metrics."""
    return [
        {"entry": entry, "metric": metric, "of": of, "value": list(value)}
        for entry, chosen in metrics.items()
        for metric, numbers in chosen.measure(subject, tools).items()
        for of, value in numbers.items()
    ]


def totals(objects: Sequence[Sequence[Record]], metrics: Mapping[str, Metric]) -> list[Total]:
    """Every metric over all objects, in the order of the registry; records of entries that are not there are passed over."""
    found: dict[tuple[str, str], dict[str, list[list[float]]]] = {}
    for record in (record for records in objects for record in records):
        numbers = found.setdefault((record["entry"], record["metric"]), {})
        numbers.setdefault(record["of"], []).append(record["value"])
    made = []
    for entry, chosen in metrics.items():
        for (of_entry, metric), numbers in found.items():
            if of_entry == entry:
                count = max(sum(not math.isnan(v[0]) for v in values) for values in numbers.values())
                values = {of: float(value) for of, value in chosen.total(numbers).items()}
                made.append(Total(metric, values, chosen.better, count))
    return made


def caption_totals(
    said: CaptionBatch, metrics: "Mapping[str, Callable[[CaptionBatch], CaptionMetrics]]"
) -> CaptionMetrics:
    """All metrics of captions, and why some are absent."""
    values: dict[str, float] = {}
    absent: dict[str, str] = {}
    for chosen in metrics.values():
        made = chosen(said)
        values, absent = values | made["values"], absent | made["absent"]
    return CaptionMetrics(values=values, absent=absent)


# ---- what is measured of pictures


def _over(subject: Subject, of_pictures: Callable[[Pictures], Tensor]) -> dict[str, list[float]]:
    """The mean over views of what each picture of an object gives, where it is known."""
    return {of: [_mean(of_pictures(pictures))] for of, pictures in subject.shown.items()}


def _mean(values: Float[Tensor, " V"]) -> float:
    return float(values.double().nanmean())


def _psnr(subject: Subject, tools: Tools) -> Numbers:
    return {"psnr": _over(subject, lambda p: psnr(p.rgb, subject.target.rgb))}


def _psnr_worst(subject: Subject, tools: Tools) -> Numbers:
    return {"psnr_worst": _psnr(subject, tools)["psnr"]}


def _psnr_foreground(subject: Subject, tools: Tools) -> Numbers:
    alpha = subject.target.opacity
    if alpha is None:
        return {}
    return {"psnr_foreground": _over(subject, lambda p: foreground_psnr(p.rgb, subject.target.rgb, alpha))}


def _ssim(subject: Subject, tools: Tools) -> Numbers:
    return {"ssim": _over(subject, lambda p: ssim(p.rgb, subject.target.rgb))}


@torch.no_grad()
def _perceptual(subject: Subject, tools: Tools) -> Numbers:
    distance = tools.perceptual
    if distance is None:
        return {}
    return {distance.key: _over(subject, lambda p: distance(p.rgb, subject.target.rgb))}


def _depth(subject: Subject, tools: Tools) -> Numbers:
    target = subject.target
    errors: dict[str, list[float]] = {}
    missing: dict[str, list[float]] = {}
    for of, made in subject.shown.items():
        if target.depth is None or target.opacity is None or made.depth is None or made.opacity is None:
            continue
        found = depth_error(made.depth, made.opacity, target.depth, target.opacity)
        errors[of], missing[of] = [_mean(found.error)], [_mean(found.missing)]
    return {"depth_error": errors, "depth_missing": missing}


def _normal(subject: Subject, tools: Tools) -> Numbers:
    target = subject.target
    errors: dict[str, list[float]] = {}
    for of, made in subject.shown.items():
        if target.normal is None or target.opacity is None or made.normal is None or made.opacity is None:
            continue
        inside = (target.opacity > 0.5) & (made.opacity > 0.5)
        if target.depth is not None:
            inside &= target.depth > 0
        errors[of] = [_mean(normal_error(made.normal, target.normal, inside))]
    return {"normal_error": errors}


def _mask(subject: Subject, tools: Tools) -> Numbers:
    """Over the pixels of all views."""
    true = subject.target.opacity
    found: dict[str, list[float]] = {}
    for of, made in subject.shown.items():
        if true is not None and made.opacity is not None:
            found[of] = [mask_iou(made.opacity, true)]
    return {"mask_iou": found}


def _visible(subject: Subject, tools: Tools) -> Numbers:
    target, cameras = subject.target, subject.cameras
    found: dict[str, list[float]] = {}
    for of, made in subject.shown.items():
        if target.depth is not None and cameras is not None and made.depth is not None and made.opacity is not None:
            seen = torch.where(made.opacity > 0.5, made.depth, 0.0)
            found[of] = [visible_chamfer(seen, target.depth, cameras)]
    return {"chamfer_visible": found}


@torch.no_grad()
def _image_similarity(subject: Subject, tools: Tools) -> Numbers:
    """Cosine of an image encoder's vectors of corresponding views; it bears the encoder's name."""
    encoder = tools.image_encoder
    if encoder is None:
        return {}
    true = _pooled(encoder, subject.target.rgb)
    values = _over(subject, lambda p: F.cosine_similarity(_pooled(encoder, p.rgb), true))
    return {f"{_name(encoder)}_similarity": values}


@torch.no_grad()
def _caption_similarity(subject: Subject, tools: Tools) -> Numbers:
    """Cosine of a text encoder's vectors of the prompt and of a caption of what is shown."""
    encoder = tools.text_encoder
    if encoder is None or not subject.prompt or not subject.told:
        return {}
    wanted = encoder.encode([subject.prompt]).pooled.float()
    values = {
        of: [_mean(F.cosine_similarity(encoder.encode([t]).pooled.float(), wanted))] for of, t in subject.told.items()
    }
    return {f"{_name(encoder)}_caption_similarity": values}


def _pooled(encoder: "ConditionEncoder", rgb: Float[Tensor, "V 3 H W"]) -> Float[Tensor, "V Cp"]:
    pixels = (rearrange(rgb.clamp(0, 1), "v c h w -> v h w c") * 255).round().byte().cpu().numpy()
    return encoder.encode(pixels).pooled.float()


def _name(encoder: "ConditionEncoder") -> str:
    return encoder.id.partition(":")[0]


def _captions(said: CaptionBatch) -> CaptionMetrics:
    return caption_metrics(said.captions, said.references, said.names, said.categories, known=said.known)


RECONSTRUCTION: dict[str, Metric] = {
    "psnr": Metric(_psnr),
    "psnr_worst": Metric(_psnr_worst, total=worst_of_objects),
    "psnr_foreground": Metric(_psnr_foreground),
    "ssim": Metric(_ssim),
    "perceptual": Metric(_perceptual, "lower"),
    "depth": Metric(_depth, "lower"),
    "normal": Metric(_normal, "lower"),
    "mask": Metric(_mask),
    "visible": Metric(_visible, "lower"),
}
"""What is measured of objects that were encoded and decoded."""

GENERATION: dict[str, Metric] = {
    "psnr": Metric(_psnr),
    "perceptual": Metric(_perceptual, "lower"),
    "image_similarity": Metric(_image_similarity),
    "caption_similarity": Metric(_caption_similarity),
}
"""What is measured of objects that were generated."""

CAPTIONS: dict[str, Callable[[CaptionBatch], CaptionMetrics]] = {"captions": _captions}
"""What is measured of captions; one entry may give several metrics."""
