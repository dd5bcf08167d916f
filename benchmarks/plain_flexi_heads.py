"""The mesh decoder's heads the plain way: all of them at every grid point and every cube."""

import torch
from torch import Tensor

from sar3d.flexicubes import FlexiMesh, extract, regular_grid
from sar3d.flexicubes.tables import CORNERS
from sar3d.vqvae.field import sample_planes
from sar3d.vqvae.flexi_config import GRID_SCALE, FlexiConfig
from sar3d.vqvae.flexi_heads import WEIGHT_GAIN, MeshHeads


def plain_heads(planes: Tensor, heads: MeshHeads, config: FlexiConfig, side: float) -> tuple[Tensor, Tensor, Tensor]:
    """Positions (B, N, N, N, 3), field (B, N, N, N) and weights (B, R, R, R, 21)."""
    batch, resolution = len(planes), config.grid
    count = resolution + 1
    grid = regular_grid(resolution, side * GRID_SCALE, dtype=planes.dtype, device=planes.device)
    features = sample_planes(planes, grid.view(1, -1, 3).expand(batch, -1, -1), side)
    sdf = torch.sigmoid(heads.sdf(features)) - 0.5
    cell = side * GRID_SCALE / resolution
    positions = grid.view(-1, 3) + torch.tanh(heads.deformation(features)) * (config.deformation * cell)
    volume = features.view(batch, count, count, count, -1)
    corners = [volume[:, x : x + resolution, y : y + resolution, z : z + resolution] for x, y, z in CORNERS]
    weights = WEIGHT_GAIN * heads.weight(torch.cat(corners, -1))
    shape = (batch, count, count, count)
    return positions.view(*shape, 3), sdf.view(shape), weights


def plain_meshes(
    planes: Tensor, heads: MeshHeads, config: FlexiConfig, side: float, *, training: bool
) -> tuple[list[FlexiMesh], Tensor, Tensor]:
    """Meshes, field and weights."""
    positions, sdf, weights = plain_heads(planes, heads, config, side)
    return extract(positions, sdf, weights, training=training), sdf, weights
