"""What an object of the dataset looks like, and how a generated one compares: both from the same cameras."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from pipelines.runtime.plan import Item
from sar3d.contact_sheet import png, to_bytes
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.datasets.view_dataset import Shown, ViewDataset
from sar3d.data.held_out import HeldOut
from sar3d.errors import ObjectError, UserError
from sar3d.tasks.flexicubes.pictures import mesh_pictures
from sar3d.vqvae.cameras import matrices, rays_of
from sar3d.vqvae.config import VolumeConfig
from sar3d.vqvae.field import Field, MeshField
from sar3d.vqvae.occupancy import occupancy_of
from sar3d.vqvae.volume import render

COMPARED = 4
"""Views of a comparison."""
_CELLS = 64
"""Side of the grid that tells where an object is not."""
_SAMPLES = 2
"""Samples along a side of each pixel, in pictures of meshes."""


@dataclass(frozen=True)
class GroundTruth:
    """Views of an object, from the side rather than from above; of those its tokenizer was not trained on, if there are
    any.
    """

    images: Float[Tensor, "V 3 H W"]
    """In [0, 1] on white."""
    cameras: Float[Tensor, "V 25"]
    view: int
    """Id of the first view."""

    @property
    def picture(self) -> UInt8[np.ndarray, "H W 3"]:
        """The first view, which is the prompt of an image condition."""
        return to_bytes(self.images[0])


def ground_truth_of(item: Item, held_out: HeldOut) -> GroundTruth:
    """The views of the object that an item of the dataset names; `held_out`: those that training was not given.

    Raises:
        ObjectError: `bad_row`, its views cannot be read.
    """
    # Of an object all held-out views count, whatever the tokenizer's training calls a sample.
    unit = ViewDataConfig(unit="object", normals=False, held_out=held_out, cache_decoded=False)
    shown: Shown = "held_out" if held_out else "all"
    try:
        dataset = ViewDataset([item["_file"]], None, unit, split="all", uids=[item["object"]])
        sample = next(dataset.samples(views=shown, groups=None), None)
    except UserError as error:
        raise ObjectError("bad_row", str(error)) from error
    if sample is None:
        raise ObjectError("bad_row", f"the views of {item['object']} are not there")
    targets = sample.supervision
    height = matrices(targets.cameras)[0][:, 2, 3] / matrices(targets.cameras)[0][:, :3, 3].norm(dim=-1)
    # From above or below many objects cannot be recognized.
    chosen = height.abs().argsort(stable=True)[:COMPARED]
    first = sample.supervision_ids[int(chosen[0])]
    return GroundTruth((targets.image[chosen] + 1) / 2, targets.cameras[chosen], first)


@torch.no_grad()
def views_of(
    field: Field, cameras: Float[Tensor, "V 25"], side: int, volume: VolumeConfig
) -> Float[Tensor, "V 3 side side"]:
    """Colors in [0, 1] on white of one object's field, which is on the cameras' device: along rays, or of its mesh.

    Args:
        volume: samples on the rays.
    """
    if isinstance(field, MeshField):
        return mesh_pictures([field.triangles()], field.color, cameras[None], side, side, _SAMPLES)[0].rgb.clamp(0, 1)
    rays = rays_of(cameras, side, side)
    empty = occupancy_of(field, resolution=_CELLS, device=cameras.device)
    seen = render(field, rays.flat(), volume, occupancy=empty)
    return rearrange(seen.rgb, "1 (v h w) c -> v c h w", v=len(cameras), h=side).clamp(0, 1)


def compared(fields: Sequence[Field], ground_truth: GroundTruth, volume: VolumeConfig, device: torch.device) -> bytes:
    """A PNG of the true views, and below them the generated object by each of its fields, from the same cameras.

    Args:
        fields: what decoders make of the object's tokens, on `device`.
    """
    cameras, side = ground_truth.cameras.to(device), ground_truth.images.shape[-1]
    made = [views_of(field, cameras, side, volume).cpu() for field in fields]
    lines = [rearrange(images, "v c h w -> c h (v w)") for images in (ground_truth.images, *made)]
    return png(to_bytes(torch.cat(lines, dim=1)))
