"""How good is the mesh decoder: pictures and shapes of views it was not given, and sheets of both."""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from sar3d.contact_sheet import png, to_bytes
from sar3d.data.datasets.view_dataset import ViewSample
from sar3d.data.loading.view_tensors import Targets
from sar3d.metrics.lpips import PerceptualLoss
from sar3d.tasks.flexicubes.pictures import Colors, Triangles, mesh_pictures
from sar3d.tasks.vqvae.evaluate import (
    Metrics,
    Reconstruction,
    ReconstructionSets,
    first_views,
    mean_image,
    measure,
    sheet_of,
    spread,
    strip,
    summary,
)
from sar3d.training.task import Sync, worker_slice
from sar3d.vqvae.cameras import rays_of, z_depth
from sar3d.vqvae.flexi_model import FlexiVQVAE

_SAMPLES = 2
"""Along a side of each pixel of evaluated pictures."""

_POINTS = 20_000
"""Of each visible surface, at most."""


@torch.no_grad()
def reconstruct(model: FlexiVQVAE, sample: ViewSample) -> Reconstruction:
    """Encode a sample's six views to tokens, decode these to a mesh and draw it in the sample's supervised views."""
    device = next(model.parameters()).device
    tokens = model.tokens(sample.encoder_input[None].to(device))
    field = model.field(model.decode_tokens(tokens))
    return drawn(field.triangles(), field.color, sample.supervision, device, tokens)


@torch.no_grad()
def drawn(
    mesh: Triangles, colors: Colors, targets: Targets, device: torch.device | str, tokens: Tensor
) -> Reconstruction:
    """A mesh in the views of `targets`, as every reconstruction is judged."""
    height, width = targets.mask.shape[-2:]
    (made,) = mesh_pictures([mesh], colors, targets.cameras[None].to(device), height, width, _SAMPLES)
    # A pixel that is covered in part has the depth of the part.
    opacity = made.mask
    return Reconstruction(
        rgb=made.rgb.clamp(0, 1),
        opacity=opacity,
        depth=made.depth / opacity.clamp_min(1e-4),
        normal=made.normal,
        tokens=tokens,
    )


def evaluate(
    model: FlexiVQVAE, held_out: ReconstructionSets, perceptual: PerceptualLoss, sync: Sync
) -> dict[str, float]:
    """Metrics `<set>/<metric>` as means over objects, of which each worker measures a part; all workers get the same.

    Those of `sar3d.tasks.vqvae.evaluate.evaluate`, codes apart, and those of `shape_metrics`.
    """
    found: dict[str, float] = {}
    for name, samples in held_out.sets.items():
        mean, rows = mean_image(samples), []
        for index in worker_slice(len(samples), sync):
            sample = samples[index]
            made = reconstruct(model, sample)
            rows.append(measure(sample, made, mean, perceptual) | shape_metrics(made, sample.supervision))
        rows = [row for part in sync.gather_objects(rows) for row in part]
        found |= {f"{name}/{metric}": value for metric, value in summary(rows).items()}
    return found


def shape_metrics(made: Reconstruction, true: Targets) -> Metrics:
    """`mask_iou` over all views' pixels, and `chamfer`, the mean of the two mean distances between the surfaces that the
    views see, in world units; NaN where either is not seen.
    """
    ours, theirs = made.opacity.cpu() > 0.5, true.mask > 0.5
    union = (ours | theirs).sum()
    iou = float((ours & theirs).sum() / union) if union else float("nan")
    depth = torch.where(ours, made.depth.cpu(), 0.0)
    a, b = visible_points(depth, true.cameras), visible_points(true.depth, true.cameras)
    if not len(a) or not len(b):
        return {"mask_iou": iou, "chamfer": float("nan")}
    there, back = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
    return {"mask_iou": iou, "chamfer": float(there.mean() + back.mean()) / 2}


def visible_points(depth: Float[Tensor, "V H W"], cameras: Float[Tensor, "V 25"]) -> NDArray[np.float32]:
    """(N, 3) world points at the centers of pixels with z-depth `depth`, spread evenly if they are many."""
    height, width = depth.shape[-2:]
    rays = rays_of(cameras, height, width)
    along = z_depth(torch.ones_like(rays.directions[..., 0]), rays.directions, cameras)
    points = rays.origins + rays.directions * (depth.flatten(1) / along)[..., None]
    seen = points[depth.flatten(1) > 0]
    step = max(1, len(seen) // _POINTS)
    return seen[::step].numpy()


def draw(model: FlexiVQVAE, held_out: ReconstructionSets) -> dict[str, bytes]:
    """One PNG per set, see `sar3d.tasks.vqvae.evaluate.draw`."""
    sheets = {}
    for name, samples in held_out.sets.items():
        if len(samples):
            shown = [first_views(samples[i]) for i in spread(samples, held_out)]
            strips = [strip(sample, reconstruct(model, sample)) for sample in shown]
            sheets[f"meshes_{name}.png"] = png(to_bytes(sheet_of(strips)))
    return sheets
