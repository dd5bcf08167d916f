"""The density at which a field's surface lies."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sar3d.errors import ObjectError
from sar3d.export.config import PUBLISHED_DENSITY
from sar3d.export.lattice import ask_raw
from sar3d.geometry import intrinsics, look_at, spherical_to_cartesian
from sar3d.vqvae.cameras import rays_of
from sar3d.vqvae.field import Field
from sar3d.vqvae.marching import points_on
from sar3d.vqvae.rays import Rays, march_span, stratified, weights_of

_VIEWS = ((20.0, 30.0), (-20.0, 120.0), (50.0, 210.0), (5.0, 300.0))
"""Elevations and azimuths in degrees. None looks along an axis: planes leave streaks of fog there."""

_PIXELS = 64
"""Along a side of a silhouette, and samples on its rays."""

_FOV = 30.0
_DISTANCE = 3.5
"""In units of the cube's side: from there the lens holds the cube as a whole."""


def raw_level(field: Field, density: float) -> float:
    """The raw density whose density is `density`; a field's density grows with its raw density.

    Raises:
        ObjectError: no raw density reaches it.
    """
    low, high = -1e4, 1e4
    if not float(field.density(torch.tensor(high, dtype=torch.float64))) > density:
        raise ObjectError("empty_field", f"the field's density never reaches {density:g}, so it has no surface")
    while high - low > 1e-6:
        middle = (low + high) / 2
        above = float(field.density(torch.tensor(middle, dtype=torch.float64))) > density
        low, high = (low, middle) if above else (middle, high)
    return high


@torch.no_grad()
def silhouette_level(field: Field, device: torch.device | str = "cpu") -> float:
    """The raw density whose surface casts the silhouettes that are most like the field's own.

    A field trained for long is steep, and many levels give nearly its surface; that of a young model is fog, whose
    surface vanishes at one object's level and swells at another's. So the level is the object's own: of all levels the
    one with the least squared difference between the opacities of rays and its solid silhouettes, in four views. Where
    every ray loses half of its light, or none does, it is the one of `PUBLISHED_DENSITY`.
    """
    opacity, greatest = [], []
    lens = intrinsics(_FOV).reshape(9)
    for elevation, azimuth in _VIEWS:
        pose = look_at(spherical_to_cartesian(_DISTANCE * field.side, elevation, azimuth))
        camera = torch.from_numpy(np.concatenate([pose.reshape(16), lens])).float().to(device)
        rays = rays_of(camera, _PIXELS, _PIXELS)
        near, far = march_span(Rays(rays.origins[None], rays.directions[None]), field.side, "skip")
        meets = (near < far)[0]
        distances = stratified(near[0, meets], far[0, meets], _PIXELS, None)
        points = points_on(Rays(rays.origins[meets], rays.directions[meets]), distances)
        raw = ask_raw(field, points.flatten(0, 1)).view(distances.shape)
        opacity.append(weights_of(raw, distances, field).sum(-1))
        greatest.append(raw.amax(-1))
    best = best_threshold(torch.cat(opacity), torch.cat(greatest))
    return raw_level(field, PUBLISHED_DENSITY) if best is None else best


def best_threshold(opacity: Float[Tensor, "N"], greatest: Float[Tensor, "N"]) -> float | None:
    """The threshold t with the least Σ(opacity - [greatest > t])² over N rays; None if it parts none from the others.

    With the rays in the order of `greatest` those that hit come first, and one running sum holds the costs of all t.
    """
    order = greatest.argsort(descending=True)
    hit = opacity[order].double()
    gain = (hit.square() - (1 - hit).square()).cumsum(0)
    best = int(gain.argmax())
    if gain[best] <= 0 or best + 1 == len(order):
        return None
    return float(greatest[order[best : best + 2]].mean())
