"""Evaluation of a VQVAE: reconstruction of views it was not given, codebook usage, and pictures of both."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sar3d.contact_sheet import png, to_bytes
from sar3d.data.datasets.view_dataset import ViewSample
from sar3d.data.loading.view_tensors import input_pictures
from sar3d.metrics.codebook import code_counts, perplexity, usage
from sar3d.metrics.geometry import depth_error, normal_error
from sar3d.metrics.image import foreground_psnr, psnr, ssim
from sar3d.metrics.lpips import PerceptualLoss
from sar3d.spacing import evenly_spaced
from sar3d.training.task import Sync, worker_slice
from sar3d.vqvae.cameras import rays_of, z_depth
from sar3d.vqvae.model import VQVAE
from sar3d.vqvae.occupancy import occupancy_of
from sar3d.vqvae.quantizer import unpack
from sar3d.vqvae.volume import render

_COLUMNS = 8
"""Views of an object on a sheet."""

Metrics = dict[str, float]

_CELLS = 64
"""Side of the occupancy grid by which empty space is skipped; finer grids cost more than they save on small pictures."""


@dataclass(frozen=True)
class ReconstructionSets:
    """What a model is measured on: named sets of samples whose supervision it never saw. Picklable."""

    sets: Mapping[str, Sequence[ViewSample]] = field(default_factory=dict)
    """By name; sequences may load lazily. `views`: unseen views of training objects. `objects`: unseen objects."""
    pictures: int = 6
    """Objects of each set that are drawn."""


@dataclass(frozen=True)
class Reconstruction:
    """Renderings of the V supervised views of one sample, from its codes."""

    rgb: Float[Tensor, "V 3 H W"]
    """In [0, 1] on white."""
    opacity: Float[Tensor, "V H W"]
    depth: Float[Tensor, "V H W"]
    """z-depth: the mean over each ray, divided by the opacity."""
    normal: Float[Tensor, "V 3 H W"]
    tokens: Tensor
    """(1, L)"""


@torch.no_grad()
def reconstruct(model: VQVAE, sample: ViewSample) -> Reconstruction:
    """Encode a sample's six views to tokens, decode these and render the sample's supervised views."""
    device = next(model.parameters()).device
    tokens = model.tokens(sample.encoder_input[None].to(device))
    field_ = model.field(model.decode_tokens(tokens))
    cameras = sample.supervision.cameras.to(device)
    height, width = sample.supervision.mask.shape[-2:]
    rays = rays_of(cameras, height, width)
    empty = occupancy_of(field_, resolution=_CELLS, device=device)
    seen = render(field_, rays.flat(), model.config.volume, occupancy=empty, normals=True)
    assert seen.normal is not None
    shape = {"v": len(cameras), "h": height}
    opacity = rearrange(seen.opacity, "1 (v h w) -> v h w", **shape)
    distance = rearrange(seen.depth, "1 (v n) -> v n", v=len(cameras))
    depth = rearrange(z_depth(distance, rays.directions, cameras), "v (h w) -> v h w", h=height)
    return Reconstruction(
        rgb=rearrange(seen.rgb, "1 (v h w) c -> v c h w", **shape).clamp(0, 1),
        opacity=opacity,
        depth=depth / opacity.clamp_min(1e-4),
        normal=rearrange(seen.normal, "1 (v h w) c -> v c h w", **shape),
        tokens=tokens,
    )


def evaluate(model: VQVAE, held_out: ReconstructionSets, perceptual: PerceptualLoss, sync: Sync) -> dict[str, float]:
    """Metrics `<set>/<metric>` as means over objects, of which each worker measures a part; all workers get the same.

    `psnr` is the mean over images, of the whole image on white; `psnr_pooled` that of the mean squared error of all
    images; `psnr_worst` the worst object's. `white_psnr` and `mean_psnr` are what an empty image and the mean of the
    set's own true images reach. Usage and perplexity are given per scale and overall.
    """
    found: dict[str, float] = {}
    for name, samples in held_out.sets.items():
        rows, counts = [], torch.zeros(len(model.config.quantizer.scales), model.config.quantizer.codebook_size)
        mean = mean_image(samples)
        for index in worker_slice(len(samples), sync):
            sample = samples[index]
            made = reconstruct(model, sample)
            counts += _counts(model, made.tokens).cpu()
            rows.append(measure(sample, made, mean, perceptual))
        rows = [row for part in sync.gather_objects(rows) for row in part]
        counts = torch.stack(sync.gather_objects(counts)).sum(0)
        found |= {f"{name}/{metric}": value for metric, value in (summary(rows) | _codes(model, counts)).items()}
    return found


def mean_image(samples: Sequence[ViewSample]) -> Tensor:
    """The mean of a set's true images."""
    total, count = torch.zeros(()), 0
    for sample in samples:
        image = (sample.supervision.image + 1) / 2
        total, count = total + image.sum(0), count + len(image)
    return total / max(count, 1)


def measure(sample: ViewSample, made: Reconstruction, mean: Tensor, perceptual: PerceptualLoss) -> Metrics:
    """Metrics of one object; `mean` is the set's `mean_image`."""
    true = sample.supervision
    device = made.rgb.device
    image, alpha, depth = ((true.image + 1) / 2).to(device), true.mask.to(device), true.depth.to(device)
    shape = depth_error(made.depth, made.opacity, depth, alpha)
    values = {
        "psnr": psnr(made.rgb, image),
        "mse": (made.rgb - image).square().mean((1, 2, 3)),
        "psnr_foreground": foreground_psnr(made.rgb, image, alpha),
        "ssim": ssim(made.rgb, image),
        perceptual.key: perceptual(made.rgb, image),
        "depth_error": shape.error,
        "depth_missing": shape.missing,
        "white_psnr": psnr(torch.ones_like(image), image),
        "mean_psnr": psnr(mean.to(device).expand_as(image), image),
    }
    if true.normal is not None:
        inside = (alpha > 0.5) & (depth > 0) & (made.opacity > 0.5)
        values["normal_error"] = normal_error(made.normal, true.normal.to(device), inside)
    # An object may be out of sight in a view; what cannot be measured there does not count.
    return {name: float(value.double().nanmean()) for name, value in values.items()}


def summary(rows: Sequence[Metrics]) -> Metrics:
    """Means over objects, and what `evaluate` adds to them."""
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    found = {name: float(np.nanmean(values)) for name, values in columns.items()}
    pooled = -10 * float(np.log10(found.pop("mse")))
    return found | {"psnr_worst": float(columns["psnr"].min()), "psnr_pooled": pooled}


def _counts(model: VQVAE, tokens: Tensor) -> Tensor:
    quantizer = model.config.quantizer
    return code_counts(unpack(tokens, quantizer.scales), quantizer.codebook_size)


def _codes(model: VQVAE, counts: Tensor) -> Metrics:
    by_scale = zip(model.config.quantizer.scales, usage(counts), perplexity(counts.long()), strict=True)
    found = {f"{name}/scale_{n}": float(v) for n, u, p in by_scale for name, v in (("usage", u), ("perplexity", p))}
    overall = counts.sum(0, keepdim=True)
    return found | {"usage": float(usage(overall)), "perplexity": float(perplexity(overall.long()))}


def draw(model: VQVAE, held_out: ReconstructionSets) -> dict[str, bytes]:
    """One PNG per set: each object in three rows (true views, their reconstructions, normals), with three of the
    encoded views at the left.
    """
    return {
        f"reconstructions_{name}.png": png(
            to_bytes(sheet_of([_drawn(model, samples[i]) for i in spread(samples, held_out)]))
        )
        for name, samples in held_out.sets.items()
        if len(samples)
    }


def sheet_of(strips: Sequence[Float[Tensor, "3 h w"]]) -> Float[Tensor, "3 H W"]:
    """The objects' strips in two columns."""
    widest = max(strip.shape[-1] for strip in strips)
    # Edges of 8 pixels keep neighbors apart.
    cells = [F.pad(strip, (8, 8 + widest - strip.shape[-1], 8, 8), value=1.0) for strip in strips]
    cells += [torch.ones_like(cells[0])] * (len(cells) % 2)
    return rearrange(torch.stack(cells), "(rows columns) c h w -> c (rows h) (columns w)", columns=2)


def spread(samples: Sequence[ViewSample], held_out: ReconstructionSets) -> Iterator[int]:
    """The objects of a set that are drawn."""
    return iter(evenly_spaced(range(len(samples)), held_out.pictures))


def _drawn(model: VQVAE, sample: ViewSample) -> Float[Tensor, "3 h w"]:
    sample = first_views(sample)
    return strip(sample, reconstruct(model, sample))


def first_views(sample: ViewSample) -> ViewSample:
    """The sample with as many supervised views as a sheet shows."""
    return replace(sample, supervision=sample.supervision.first(_COLUMNS))


def strip(sample: ViewSample, made: Reconstruction) -> Float[Tensor, "3 h w"]:
    """One object of a sheet: true views, their reconstructions and normals, three of the encoded views at the left."""
    true = (sample.supervision.image + 1) / 2
    normals = (made.normal.cpu() + 1) / 2 * made.opacity.cpu()[:, None] + (1 - made.opacity.cpu()[:, None])
    rows = [true, made.rgb.cpu(), normals]
    strips = [rearrange(row, "v c h w -> c h (v w)") for row in rows]
    gap = torch.ones(3, true.shape[-2], 4)
    given = input_pictures(sample.encoder_input)[:3]
    return torch.cat([torch.cat([left, gap, strip], -1) for left, strip in zip(given, strips, strict=True)], 1)
