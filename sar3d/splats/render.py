"""Drawing splats with plain tensors, on a CPU or any other device (Zwicker et al. 2001, Kerbl et al. 2023).

Each splat becomes a Gaussian of the image plane; tiles of 16² pixels collect the splats that reach them, sorted by
depth, and composite them front to back, many tiles at once.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sar3d.render.base import check_cameras
from sar3d.splats.harmonics import colors_of
from sar3d.splats.scene import Splats

TILE = 16
_NEAR = 0.01
"""Least depth of a splat's center."""
_LEAST, _MOST = 1 / 255, 0.99
"""Alphas below the first do not count; none exceeds the second (Kerbl et al. 2023, appendix C)."""
_OPAQUE = 1e-4
"""Transmittance below which a tile is done."""
_DEPTH = 32
"""Splats of a tile that are composited at once."""
_NUMBERS = 1 << 24
"""Alphas that are held at once."""


@dataclass(frozen=True)
class SplatSettings:
    """How splats are drawn."""

    resolution: int = 512
    """Height and width of a picture in pixels."""
    kernel: float = 0.3
    """Variance in pixels² that is added to each splat on the image plane."""
    mode: Literal["classic", "antialiased"] = "classic"
    """`antialiased` lowers the opacity by as much as the kernel widens the splat (Yu et al. 2024, Mip-Splatting)."""


@dataclass(frozen=True)
class SplatFrames:
    """V pictures, composited on white."""

    rgb: NDArray[np.uint8]
    """(V, H, W, 3)"""
    alpha: NDArray[np.uint8]
    """(V, H, W)"""


@dataclass(frozen=True)
class Projected:
    """M splats on one image, sorted from near to far."""

    center: Float[Tensor, "M 2"]
    """Pixels from the upper left corner."""
    conic: Float[Tensor, "M 3"]
    """Entries xx, xy, yy of the inverse covariance."""
    reach: Float[Tensor, "M 2"]
    """Half the size of the box in which alpha can be at least 1/255."""
    opacity: Float[Tensor, " M"]
    color: Float[Tensor, "M 3"]


def render_splats(
    splats: Splats,
    c2w: NDArray[np.floating],
    intrinsics: NDArray[np.floating],
    settings: SplatSettings = SplatSettings(),  # noqa: B008  frozen
    device: str = "cpu",
) -> SplatFrames:
    """Draw V views; cameras as in `sar3d.render.Renderer.render`."""
    c2w, intrinsics = check_cameras(c2w, intrinsics)
    pictures = [
        draw(project(splats, pose, lens, settings, device), settings.resolution)
        for pose, lens in zip(c2w, intrinsics, strict=True)
    ]
    return to_frames(torch.stack([rgb for rgb, _ in pictures]), torch.stack([alpha for _, alpha in pictures]))


def to_frames(rgb: Float[Tensor, "V H W 3"], alpha: Float[Tensor, "V H W"]) -> SplatFrames:
    """Bytes from colors that are weighted by alpha, on white."""
    white = rgb + (1 - alpha[..., None])
    return SplatFrames(*((x.clamp(0, 1) * 255).round().byte().cpu().numpy() for x in (white, alpha)))


@torch.no_grad()
def project(
    splats: Splats, c2w: NDArray[np.float64], intrinsic: NDArray[np.float64], settings: SplatSettings, device: str
) -> Projected:
    """The splats in front of a camera (4, 4) with normalized intrinsics (3, 3), on its image."""
    to_camera = torch.from_numpy(np.linalg.inv(c2w)).to(device, torch.float32)
    means, covariances = (torch.from_numpy(a).to(device) for a in (splats.means, splats.covariances))
    opacity = torch.from_numpy(splats.opacities).to(device)
    camera = means @ to_camera[:3, :3].T + to_camera[:3, 3]
    keep = (camera[:, 2] > _NEAR) & (opacity > _LEAST)
    order = keep.nonzero()[:, 0]
    order = order[camera[order, 2].argsort(stable=True)]
    camera, opacity = camera[order], opacity[order]
    focal = torch.tensor([intrinsic[0, 0], intrinsic[1, 1]], device=device, dtype=torch.float32) * settings.resolution
    middle = torch.tensor([intrinsic[0, 2], intrinsic[1, 2]], device=device, dtype=torch.float32) * settings.resolution
    flat = _flattened(camera, covariances[order], to_camera[:3, :3], focal)
    widened = flat + settings.kernel * torch.eye(2, device=device)
    area, before = widened.det(), flat.det().clamp_min(0)
    if settings.mode == "antialiased":
        opacity = opacity * (before / area).sqrt()
    inverse = torch.stack([widened[:, 1, 1], -widened[:, 0, 1], widened[:, 0, 0]], 1) / area[:, None]
    within = 2 * (opacity / _LEAST).log().clamp_min(0)
    reach = (within[:, None] * widened.diagonal(dim1=1, dim2=2)).sqrt()
    color = colors_of(splats, order.cpu().numpy(), c2w[:3, 3]).to(device)
    return Projected(camera[:, :2] / camera[:, 2:] * focal + middle, inverse, reach, opacity, color)


def _flattened(
    camera: Float[Tensor, "M 3"], covariances: Float[Tensor, "M 3 3"], rotation: Float[Tensor, "3 3"], focal: Tensor
) -> Float[Tensor, "M 2 2"]:
    """Covariances on the image, in pixels²: the projection is taken as linear around each center."""
    depth = camera[:, 2]
    slopes = torch.zeros(len(camera), 2, 3, device=camera.device)
    slopes[:, 0, 0], slopes[:, 1, 1] = focal[0] / depth, focal[1] / depth
    slopes[:, :, 2] = -focal * camera[:, :2] / depth[:, None] ** 2
    linear = slopes @ rotation
    return linear @ covariances @ linear.transpose(1, 2)


@torch.no_grad()
def draw(splats: Projected, resolution: int) -> tuple[Float[Tensor, "H W 3"], Float[Tensor, "H W"]]:
    """Colors weighted by alpha, and alpha, of one image."""
    side = -(-resolution // TILE)
    members, starts, counts = _tiles(splats, side)
    device = splats.center.device
    color = torch.zeros(side * side, TILE * TILE, 3, device=device)
    clear = torch.ones(side * side, TILE * TILE, device=device)
    done = 0
    live = counts.nonzero()[:, 0]
    while len(live):
        for tiles in live.split(max(1, _NUMBERS // (_DEPTH * TILE * TILE))):
            _composite(splats, members, starts[tiles] + done, counts[tiles] - done, tiles, side, color, clear)
        done += _DEPTH
        live = live[(counts[live] > done) & (clear[live].amax(1) > _OPAQUE)]
    shape = (side, side, TILE, TILE)
    rgb = color.reshape(*shape, 3).permute(0, 2, 1, 3, 4).reshape(side * TILE, side * TILE, 3)
    alpha = 1 - clear.reshape(shape).permute(0, 2, 1, 3).reshape(side * TILE, side * TILE)
    return rgb[:resolution, :resolution], alpha[:resolution, :resolution]


def _tiles(splats: Projected, side: int) -> tuple[Int[Tensor, " P"], Int[Tensor, " T"], Int[Tensor, " T"]]:
    """Splats by tile, from near to far in each; where the tiles begin, and how many splats each has."""
    low = ((splats.center - splats.reach) / TILE).floor().clamp(0, side).long()
    high = ((splats.center + splats.reach) / TILE).floor().clamp(-1, side - 1).long() + 1
    size = (high - low).clamp_min(0)
    count = size[:, 0] * size[:, 1]
    member = torch.repeat_interleave(count)
    place = torch.arange(len(member), device=member.device) - (count.cumsum(0) - count)[member]
    column = low[member, 0] + place % size[member, 0]
    row = low[member, 1] + place // size[member, 0]
    tile = row * side + column
    # Stable, so that the order of depth holds inside each tile.
    order = tile.argsort(stable=True)
    counts = torch.bincount(tile, minlength=side * side)
    return member[order], counts.cumsum(0) - counts, counts


def _composite(
    splats: Projected,
    members: Int[Tensor, " P"],
    starts: Int[Tensor, " t"],
    left: Int[Tensor, " t"],
    tiles: Int[Tensor, " t"],
    side: int,
    color: Float[Tensor, "T n 3"],
    clear: Float[Tensor, "T n"],
) -> None:
    """Lay the next splats of some tiles behind what they have."""
    device = color.device
    step = torch.arange(min(_DEPTH, int(left.max())), device=device)
    there = step < left[:, None]
    chosen = members[(starts[:, None] + step).clamp_max(len(members) - 1)]
    pixel = torch.arange(TILE, device=device) + 0.5
    corner = torch.stack([tiles % side, tiles // side], 1) * TILE
    away = (corner[:, None, :, None] + pixel) - splats.center[chosen][..., None]
    dx, dy = away[:, :, 0], away[:, :, 1]
    xx, xy, yy = (splats.conic[chosen][..., i, None] for i in range(3))
    power = (-0.5 * yy * dy * dy)[..., :, None] + (-0.5 * xx * dx * dx)[..., None, :]
    power = power - (xy * dy)[..., :, None] * dx[..., None, :]
    opacity = torch.where(there, splats.opacity[chosen], 0)
    alpha = power.flatten(2).exp_().mul_(opacity[..., None]).clamp_(max=_MOST)
    alpha = torch.where(alpha >= _LEAST, alpha, 0)
    behind = (1 - alpha).cumprod(1)
    weights = alpha
    weights[:, 1:] *= behind[:, :-1]
    weights *= clear[tiles][:, None]
    color[tiles] += torch.einsum("tkn,tkc->tnc", weights, splats.color[chosen])
    clear[tiles] *= behind[:, -1]
