"""Pictures of meshes for training and evaluation: what targets are compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from sar3d.render.raster import Raster, averaged, rasterize, vertex_normals
from sar3d.vqvae.cameras import matrices

Colors = Callable[[Float[Tensor, "B N 3"]], Float[Tensor, "B N 3"]]
"""Colors of B objects at surface points."""

Triangles = tuple[Float[Tensor, "N 3"], Int[Tensor, "F 3"]]
"""Vertices and faces of one object."""

PUBLISHED_SCALE = 2.0 * 0.45
"""Camera positions of the published stage, in units of those that the pictures were taken from."""
PUBLISHED_FOCAL = 1.2693239478
"""0.5 / tan(43° / 2)"""


@dataclass(frozen=True)
class MeshPictures:
    """Pictures of one object's mesh in V views, in float32."""

    rgb: Float[Tensor, "V 3 H W"]
    """In [0, 1] on white."""
    mask: Float[Tensor, "V H W"]
    """Coverage, with the gradient of silhouettes."""
    depth: Float[Tensor, "V H W"]
    """z-depth where a pixel is covered wholly."""
    normal: Float[Tensor, "V 3 H W"]
    """Unit, world frame, where a pixel is covered wholly."""
    whole: Bool[Tensor, "V H W"]
    """Pixels that are covered wholly."""


def mesh_pictures(
    meshes: Sequence[Triangles],
    colors: Colors,
    cameras: Float[Tensor, "B V 25"],
    height: int,
    width: int,
    samples: int,
    *,
    color_silhouettes: bool = True,
) -> list[MeshPictures]:
    """Pictures of B objects, differentiable in vertices and colors.

    Points at which colors are asked carry no gradient: what a color says of where its point should be is little, and the
    way there is long.

    Args:
        samples: along a side of each pixel.
        color_silhouettes: whether errors of color move silhouettes.
    """
    rasters = []
    for (vertices, faces), camera in zip(meshes, cameras, strict=True):
        c2w, lens = matrices(camera)
        rasters.append(rasterize(vertices, faces, c2w, lens, height * samples, width * samples))
    pairs = list(zip(rasters, meshes, strict=True))
    points = [raster.interpolate(vertices).detach() for raster, (vertices, _) in pairs]
    shown = colors(pad_sequence(points, batch_first=True))
    return [
        _pictures(raster, mesh, color[: len(raster.pixel)], samples, color_silhouettes=color_silhouettes)
        for (raster, mesh), color in zip(pairs, shown, strict=True)
    ]


def _pictures(
    raster: Raster, mesh: Triangles, color: Float[Tensor, "K 3"], samples: int, *, color_silhouettes: bool
) -> MeshPictures:
    normals = F.normalize(raster.interpolate(vertex_normals(*mesh)), dim=-1)
    mask = raster.with_silhouettes(raster.mask())
    rgb = raster.picture(color, 1.0)
    rgb = raster.with_silhouettes(rgb) if color_silhouettes else rgb
    mask, rgb = averaged(mask, samples)[..., 0], averaged(rgb, samples)
    # A pixel's center is the mean of its samples, and so is, of a plane, its depth.
    surface = averaged(raster.picture(torch.cat([raster.depth[:, None], normals], -1)), samples)
    return MeshPictures(
        rgb=rearrange(rgb, "v h w c -> v c h w"),
        mask=mask,
        depth=surface[..., 0],
        normal=F.normalize(rearrange(surface[..., 1:], "v h w c -> v c h w"), dim=1),
        whole=mask.detach() > 1 - 1e-4,
    )


def published_cameras(cameras: Float[Tensor, "*V 25"]) -> Float[Tensor, "*V 25"]:
    """The cameras that the published stage mistakes for those that pictures were taken from."""
    changed = cameras.clone()
    for axis in (3, 7, 11):
        changed[..., axis] *= PUBLISHED_SCALE
    for axis in (16, 20):
        changed[..., axis] = PUBLISHED_FOCAL
    return changed
