"""How good is the mesh decoder: pictures and shapes of views it was not given, and sheets of both."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sar3d.contact_sheet import png, to_bytes
from sar3d.data.datasets.view_dataset import ViewSample
from sar3d.data.loading.view_tensors import Targets
from sar3d.errors import ObjectError
from sar3d.export.files import glb_bytes
from sar3d.export.mesh import FADING, INSET, extract_mesh
from sar3d.export.texture import bake, unwrap
from sar3d.metrics.geometry import mask_iou, visible_chamfer
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
from sar3d.vqvae.flexi_field import FlexiField
from sar3d.vqvae.flexi_model import FlexiVQVAE
from sar3d.vqvae.marching import unit
from sar3d.vqvae.model import VQVAE

_SAMPLES = 2
"""Along a side of each pixel of evaluated pictures."""

_FILES = 2
"""Objects of each set that are kept as files."""

_FACES, _TEXTURE = 10_000, 512
"""Of these files: triangles at most, and the texture's side."""


@torch.no_grad()
def reconstruct(model: FlexiVQVAE, sample: ViewSample) -> Reconstruction:
    """Encode a sample's six views to tokens, decode these to a mesh and draw it in the sample's supervised views."""
    tokens, field = _encoded(model, sample)
    return drawn(field.triangles(), field.color, sample.supervision, tokens.device, tokens)


@torch.no_grad()
def marched(vqvae: VQVAE, sample: ViewSample, grid: int = 128) -> Reconstruction:
    """The same by marching cubes over the radiance field of a VQVAE, which a mesh decoder is to beat.

    Args:
        grid: points along a side of the cube.

    Raises:
        ObjectError: the field has no surface.
    """
    device = next(vqvae.parameters()).device
    tokens = vqvae.tokens(sample.encoder_input[None].to(device))
    field = vqvae.field(vqvae.decode_tokens(tokens))
    mesh = extract_mesh(field, grid=grid, device=device)

    def color(points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """As exported meshes have it, a little below the surface."""
        inward, bound = unit(field.density_gradient(points)), field.side * (0.5 - FADING)
        return field.query((points + INSET * field.side * inward).clamp(-bound, bound)).rgb

    triangles = torch.from_numpy(mesh.vertices).to(device), torch.from_numpy(mesh.faces).long().to(device)
    return drawn(triangles, color, sample.supervision, device, tokens)


def _encoded(model: FlexiVQVAE, sample: ViewSample) -> tuple[Int[Tensor, "1 L"], FlexiField]:
    """A sample's tokens, and the field that they decode to."""
    tokens = model.tokens(sample.encoder_input[None].to(next(model.parameters()).device))
    return tokens, model.field(model.decode_tokens(tokens))


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
    opacity = made.opacity.cpu()
    depth = torch.where(opacity > 0.5, made.depth.cpu(), 0.0)
    return {"mask_iou": mask_iou(opacity, true.mask), "chamfer": visible_chamfer(depth, true.depth, true.cameras)}


@torch.no_grad()
def draw(model: FlexiVQVAE, held_out: ReconstructionSets) -> dict[str, bytes]:
    """One PNG per set, see `sar3d.tasks.vqvae.evaluate.draw`, and the first objects of each as GLB files with textures.

    An object without a surface is a blank line of the sheet and has no file.
    """
    files = {}
    for name, samples in held_out.sets.items():
        strips = []
        for number, i in enumerate(spread(samples, held_out)):
            sample = first_views(samples[i])
            tokens, field = _encoded(model, sample)
            strips.append(
                strip(sample, drawn(field.triangles(), field.color, sample.supervision, tokens.device, tokens))
            )
            glb = _glb(field, tokens.device) if number < _FILES else None
            if glb is not None:
                files[f"meshes_{name}/{number}.glb"] = glb
        if strips:
            files[f"meshes_{name}.png"] = png(to_bytes(sheet_of(strips)))
    return files


def _glb(field: FlexiField, device: torch.device) -> bytes | None:
    """The file of one object; None where it has no surface yet."""
    try:
        unwrapped = unwrap(extract_mesh(field, faces=_FACES, device=device))
        return glb_bytes(unwrapped, bake(field, unwrapped, _TEXTURE, device=device))
    except ObjectError:
        return None
