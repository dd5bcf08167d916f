"""The gradient of silhouettes by micro-edges (Pidhorskyi et al. 2024, "Rasterized Edge Gradients").

What a pixel shows jumps where one surface ends in front of another. A picture sampled at the pixels' centers does not
tell where between two centers the jump is, so its derivative in the position of silhouettes is zero nearly everywhere.
The mean of the true picture is differentiable: if a jump from I₀ to I₁ between two neighbors moves by de pixels, the two
pixels together change by (I₀ - I₁) de. That is added, half to each, and `e` moves as the nearer surface does at its own
pixel's center. Nothing depends on faces that happen to be silhouettes, which fine meshes hardly ever show.

Two covered neighbors show one surface if either one's face, prolonged in its plane, meets the other: only there the
published rule, which asks whether a center lies inside the other's triangle, is too strict for faces of pixel size.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_TOLERANCE = 2.0
"""In units of a pixel's width at that depth: how far a neighbor may be from the prolonged plane of the same surface."""


@dataclass(frozen=True)
class Jumps:
    """J pairs of neighboring pixels that show different surfaces, first those side by side, then those on top of each
    other.
    """

    first: Int[Tensor, "J"]
    """Numbers of the left or upper pixels."""
    second: Int[Tensor, "J"]
    """Numbers of the right or lower pixels."""
    nearer: Int[Tensor, "J"]
    """Which covered pixel (0 to K - 1) shows the nearer surface."""
    axis: Int[Tensor, "J"]
    """0 where the pair lies along x, 1 along y."""


@torch.no_grad()
def find_jumps(
    shape: tuple[int, int, int],
    pixel: Int[Tensor, "K"],
    face: Int[Tensor, "K"],
    screen: Float[Tensor, "K 3 3"],
    shares: Float[Tensor, "K 3"],
    focal: Float[Tensor, "K"],
) -> Jumps:
    """See `Jumps`; arguments as in `raster.Raster`, `focal` of each pixel's view."""
    views, height, width = shape
    covered = torch.full((views * height * width,), -1, dtype=torch.int64, device=pixel.device)
    covered[pixel] = torch.arange(len(pixel), device=pixel.device)
    number = torch.arange(views * height * width, device=pixel.device).view(shape)
    inverse, slopes = _planes(screen, shares)
    found = []
    for axis, (a, b) in enumerate(((number[:, :, :-1], number[:, :, 1:]), (number[:, :-1], number[:, 1:]))):
        first, second = a.flatten(), b.flatten()
        p, q = covered[first], covered[second]
        # Most pairs are background or one face; the planes are compared at the others only.
        some = ((p >= 0) | (q >= 0)).nonzero().flatten()
        first, second, p, q = (values.index_select(0, some) for values in (first, second, p, q))
        both = (p >= 0) & (q >= 0)
        continuous = both.clone()
        i, j = p[both], q[both]
        continuous[both] = (face[i] == face[j]) | _meet(inverse, slopes[:, axis], focal, i, j)
        nearer = torch.where(q < 0, p, q)
        nearer[both] = torch.where(inverse[i] >= inverse[j], i, j)
        kept = (~continuous).nonzero().flatten()
        parts = [values.index_select(0, kept) for values in (first, second, nearer)]
        found.append([*parts, torch.full_like(kept, axis)])
    first, second, nearer, along = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Jumps(first, second, nearer, along)


def _planes(
    screen: Float[Tensor, "K 3 3"], shares: Float[Tensor, "K 3"]
) -> tuple[Float[Tensor, "K"], Float[Tensor, "K 2"]]:
    """Inverse depth at pixels' centers and its change from one pixel to the next along x and y, as the faces' planes
    have it: it is linear on the screen.
    """
    x, y, z = screen.unbind(-1)
    inverse = 1 / z
    dx, dy = x.roll(-1, -1) - x.roll(-2, -1), y.roll(-1, -1) - y.roll(-2, -1)
    area = (x * dy).sum(-1, keepdim=True)
    area = torch.where(area.abs() < 1e-12, 1e-12, area)
    slopes = torch.stack([(inverse * dy / area).sum(-1), (-inverse * dx / area).sum(-1)], -1)
    return (shares * inverse).sum(-1), slopes


def _meet(
    inverse: Float[Tensor, "K"],
    slope: Float[Tensor, "K"],
    focal: Float[Tensor, "K"],
    first: Int[Tensor, "J"],
    second: Int[Tensor, "J"],
) -> Bool[Tensor, "J"]:
    """Whether neighbors `first` and `second`, in the direction of `slope`, show one surface."""
    z0, z1 = 1 / inverse[first], 1 / inverse[second]
    onward, back = inverse[first] + slope[first], inverse[second] - slope[second]
    gaps = [
        torch.where(onward > 0, (1 / onward - z1).abs(), torch.inf),
        torch.where(back > 0, (1 / back - z0).abs(), torch.inf),
        (z1 - z0).abs(),
    ]
    gap = torch.minimum(torch.minimum(gaps[0], gaps[1]), gaps[2])
    return gap <= _TOLERANCE * torch.minimum(z0, z1) / focal[first]


def with_gradient(
    picture: Float[Tensor, "V H W C"], jumps: Jumps, screen: Float[Tensor, "K 3 3"], shares: Float[Tensor, "K 3"]
) -> Float[Tensor, "V H W C"]:
    """The same values, with the gradient that moving jumps give to `screen`."""
    flat = picture.reshape(-1, picture.shape[-1])
    along = screen[jumps.nearer, :, jumps.axis]
    edge = (shares.detach()[jumps.nearer] * along).sum(-1)
    jump = (flat[jumps.first] - flat[jumps.second]).detach() / 2
    moved = jump * (edge - edge.detach())[:, None]
    flat = flat.index_add(0, jumps.first, moved).index_add(0, jumps.second, moved)
    return flat.view(picture.shape)
