"""Fields whose surface and color are known by formula."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sar3d.vqvae.field import EMPTY, FieldSample

Distance = Callable[[Tensor], Tensor]


def by_direction(points: Tensor) -> Tensor:
    """Colors that do not change along the normals of a ball around the origin."""
    unit = F.normalize(points, dim=-1)
    return 0.5 + 0.3 * torch.sin(2 * unit + unit.new_tensor([0.0, 1.0, 2.0]))


@dataclass
class Solid:
    """Raw density runs from negative outside to positive inside, across the surface where `distance` is 0."""

    distance: Distance
    """Signed, negative inside, of points (..., 3)."""
    color: Distance = by_direction
    steepness: float = 400.0
    greatest: float = 20.0
    asked: int = 0

    @property
    def side(self) -> float:
        return 0.9

    def query(self, points: Tensor) -> FieldSample:
        self.asked += points.shape[1]
        inside = (points.abs() <= self.side / 2).all(-1, keepdim=True)
        raw = (-self.steepness * self.distance(points)).clamp(-self.greatest, self.greatest)[..., None]
        return FieldSample(rgb=self.color(points) * inside, raw=raw.masked_fill(~inside, EMPTY))

    def density(self, raw: Tensor) -> Tensor:
        return 20 * F.softplus(raw - 1)

    @property
    def level(self) -> float:
        """Density where `distance` is 0."""
        return float(self.density(torch.zeros(())))


def ball(radius: float, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Distance:
    return lambda points: (points - points.new_tensor(center)).norm(dim=-1) - radius


def torus(radius: float, tube: float) -> Distance:
    """Around the z axis."""
    return lambda points: torch.hypot(points[..., :2].norm(dim=-1) - radius, points[..., 2]) - tube


def rod(radius: float, low: float, high: float) -> Distance:
    """A cylinder along x."""

    def distance(points: Tensor) -> Tensor:
        x = points[..., 0]
        return torch.maximum(points[..., 1:].norm(dim=-1) - radius, torch.maximum(low - x, x - high))

    return distance


def union(*parts: Distance) -> Distance:
    return lambda points: torch.stack([part(points) for part in parts]).amin(0)


def without(whole: Distance, part: Distance) -> Distance:
    return lambda points: torch.maximum(whole(points), -part(points))
