"""Pictures of a field from all around: frames, video and animation."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sar3d.geometry import intrinsics, look_at, spherical_to_cartesian
from sar3d.render.raster import averaged, rasterize
from sar3d.vqvae.cameras import rays_of
from sar3d.vqvae.config import VolumeConfig
from sar3d.vqvae.field import Field, MeshField
from sar3d.vqvae.occupancy import Occupancy, occupancy_of
from sar3d.vqvae.volume import Rays, render
from sar3d.working import working_on

FOV = 39.6
"""Degrees between opposite edges: the lens of the pictures that models are trained on."""

_FRONT = -90.0
"""Azimuth of the first picture: the front of a glTF object turned z-up."""

_MARGIN = 0.05
"""Part of the picture left free at each edge."""

_CELLS = 96
"""Of the grid that tells where a field is empty, along a side."""

_SAMPLES = 2
"""Samples along the side of a pixel, in pictures of a mesh."""

_CRF = "18"
"""Constant rate factor of the video: no loss that one sees."""


def turntable(
    field: Field,
    *,
    frames: int = 24,
    resolution: int = 256,
    elevation: float = 20.0,
    volume: VolumeConfig = VolumeConfig(),  # noqa: B008  frozen
    device: torch.device | str = "cpu",
) -> NDArray[np.uint8]:
    """(F, H, W, 3) sRGB pictures on white of a field of one object, evenly around it, from the front to its right.

    Args:
        field: of one object.
        frames: pictures, F.
        resolution: side of a picture, H = W.
        elevation: of the camera in degrees. Its distance is the least from which every picture holds the object.
        volume: samples on a ray.
        device: where the field is.
    """
    if isinstance(field, MeshField):
        vertices, faces = field.triangles()
        corner = vertices.new_full((1, 3), field.side / 2)
        held = vertices if len(vertices) else torch.cat([-corner, corner])
        low, high = (corner.cpu().numpy() for corner in (held.amin(0), held.amax(0)))
        poses = poses_around(low, high, field.side, frames, elevation)
        return render_mesh_views(field, vertices, faces, poses, resolution)
    occupancy = occupancy_of(field, resolution=_CELLS, device=device)
    poses = turntable_poses(occupancy, frames, elevation)
    return render_views(field, poses, resolution, volume, occupancy, device)


@torch.no_grad()
def render_views(
    field: Field,
    poses: NDArray[np.float64],
    resolution: int,
    volume: VolumeConfig,
    occupancy: Occupancy | None = None,
    device: torch.device | str = "cpu",
) -> NDArray[np.uint8]:
    """(V, H, W, 3) sRGB pictures on white of a field of one object, seen by cameras (V, 4, 4) with the lens `FOV`."""
    lens = intrinsics(FOV).reshape(9)
    pictures = []
    for i, pose in enumerate(poses):
        working_on(f"turntable: picture {i + 1} of {len(poses)}")
        camera = torch.from_numpy(np.concatenate([pose.reshape(16), lens])).float().to(device)
        rays = rays_of(camera, resolution, resolution)
        seen = render(field, Rays(rays.origins[None], rays.directions[None]), volume, occupancy=occupancy)
        pixels = (seen.rgb[0].clamp(0, 1) * 255).round().to(torch.uint8)
        pictures.append(pixels.view(resolution, resolution, 3).cpu().numpy())
    return np.stack(pictures)


@torch.no_grad()
def render_mesh_views(
    field: MeshField,
    vertices: Float[Tensor, "N 3"],
    faces: Int[Tensor, "K 3"],
    poses: NDArray[np.float64],
    resolution: int,
) -> NDArray[np.uint8]:
    """(V, H, W, 3) sRGB pictures on white of a mesh with a field's colors, seen by cameras (V, 4, 4) with the lens `FOV`."""
    lens = torch.from_numpy(intrinsics(FOV))[None].to(vertices)
    pictures = []
    for i, pose in enumerate(poses):
        working_on(f"turntable: picture {i + 1} of {len(poses)}")
        fine = resolution * _SAMPLES
        raster = rasterize(vertices, faces, torch.from_numpy(pose)[None].to(vertices), lens, fine, fine)
        colors = field.color(raster.interpolate(vertices)[None])[0].clamp(0, 1)
        picture = averaged(raster.picture(colors, 1.0), _SAMPLES)[0]
        pictures.append((picture * 255).round().to(torch.uint8).cpu().numpy())
    return np.stack(pictures)


def turntable_poses(occupancy: Occupancy, frames: int, elevation: float) -> NDArray[np.float64]:
    """(F, 4, 4) camera-to-world matrices on a circle, first in front, that all hold the box around a field."""
    low, high = occupancy.low[0].cpu().numpy(), occupancy.high[0].cpu().numpy()
    half = occupancy.side / 2
    low, high = (low, high) if (low <= high).all() else (np.full(3, -half), np.full(3, half))
    return poses_around(low, high, occupancy.side, frames, elevation)


def poses_around(
    low: NDArray[np.floating], high: NDArray[np.floating], side: float, frames: int, elevation: float
) -> NDArray[np.float64]:
    """The same for a box with the corners `low` and `high` in a cube of `side`."""
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True)), axis=-1).reshape(-1, 3)
    directions = spherical_to_cartesian(1.0, elevation, _FRONT + np.arange(frames) * (360 / frames))
    right, down, forward = np.moveaxis(look_at(directions)[:, :3, :3], -1, 0)
    reach = intrinsics(FOV)[0, 0] / (0.5 - _MARGIN)
    # A corner p is at depth r + p·forward and must lie within the picture's edges: a lower bound on the distance r.
    across = np.maximum(np.abs(corners @ right.T), np.abs(corners @ down.T))
    distance = float((reach * across - corners @ forward.T).max())
    return look_at(directions * max(distance, side / 2))


def write_mp4(path: Path | str, frames: NDArray[np.uint8], fps: int = 12) -> None:
    """Write `frames` (F, H, W, 3) as H.264 video that every browser plays (yuv420p; odd sides gain a pixel)."""
    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    # A time of writing in the file would make each differ from the last.
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": _CRF, "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = even.shape[2], even.shape[1], "yuv420p"
        for frame in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def write_gif(path: Path | str, frames: NDArray[np.uint8], fps: int = 12) -> None:
    """Write `frames` (F, H, W, 3) as an animation that repeats for ever, in 256 colors that all frames share."""
    # One palette for all: a palette per frame flickers.
    shown = frames[:: max(1, len(frames) // 8)]
    palette = Image.fromarray(np.concatenate(shown)).quantize(256, method=Image.Quantize.MEDIANCUT)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    duration = max(20, 10 * round(100 / fps))
    pictures[0].save(path, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0, optimize=False)
