"""Where the mesh decoder begins: the surface that a trained radiance field already has."""

import torch
from jaxtyping import Float
from torch import Tensor

from sar3d.errors import ObjectError
from sar3d.export.lattice import dense_lattice
from sar3d.export.level import silhouette_level
from sar3d.vqvae.config import FieldConfig
from sar3d.vqvae.field import FieldMLP, TriplaneField
from sar3d.vqvae.flexi_config import FlexiConfig

CHANGE = 0.2
"""Change of the mesh's field from one grid point to the next at the surface, to begin with."""


@torch.no_grad()
def field_level(planes: Float[Tensor, "B 3 C R R"], mlp: FieldMLP, config: FieldConfig) -> Float[Tensor, "K"]:
    """For each object that has a surface, the raw density at which its silhouettes are most like the field's own."""
    levels = []
    for own in planes.split(1):
        try:
            levels.append(silhouette_level(TriplaneField(own, mlp, config), planes.device))
        except ObjectError:  # a field that is empty throughout has no level
            continue
    return planes.new_tensor(levels)


@torch.no_grad()
def field_slope(
    planes: Float[Tensor, "B 3 C R R"], mlp: FieldMLP, config: FieldConfig, mesh: FlexiConfig, level: float
) -> Float[Tensor, "K"]:
    """For each object that has a surface at raw density `level`, the median change of the raw density there, from one
    grid point to the next along its gradient.
    """
    found = []
    for own in planes.split(1):
        raw = dense_lattice(TriplaneField(own, mlp, config), mesh.grid + 1, planes.device)[1:-1, 1:-1, 1:-1]
        gradient = torch.stack(torch.gradient(raw)).norm(dim=0)
        inside = raw > level
        beside = torch.zeros_like(inside)
        for axis in range(3):
            count = len(raw) - 1
            change = inside.narrow(axis, 0, count) != inside.narrow(axis, 1, count)
            beside.narrow(axis, 0, count).logical_or_(change)
        if beside.any():
            found.append(gradient[beside].median())
    return torch.stack(found) if found else planes.new_zeros(0)


def steepness_of(slope: float) -> float:
    """The logit per unit of raw density that makes a raw change of `slope` one of `CHANGE`: a sigmoid's slope is 1/4."""
    return 4 * CHANGE / slope
