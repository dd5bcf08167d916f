"""FlexiCubes on dense grids."""

import torch
from jaxtyping import Float
from torch import Tensor

from sar3d.flexicubes.mesh import WEIGHTS, FlexiMesh, dual_mesh
from sar3d.flexicubes.topology import check_grid, find_surface


def regular_grid(
    resolution: int, side: float, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "N N N 3"]:
    """Points of a grid of `resolution`³ cubes that fills a cube of `side` centered at the origin, in 'ij' order."""
    line = torch.linspace(-side / 2, side / 2, resolution + 1, device=device, dtype=dtype)
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1)


def extract(
    positions: Float[Tensor, "B N N N 3"],
    sdf: Float[Tensor, "B N N N"],
    weights: Float[Tensor, "B R R R 21"],
    *,
    training: bool,
) -> list[FlexiMesh]:
    """Triangle meshes of B scalar fields on grids of R³ cubes, differentiable in all three tensors.

    Args:
        positions: of the grid's points, N = R + 1, 'ij' order; usually `regular_grid` plus a deformation of less than
            half a cube.
        sdf: field at the points, negative inside. On the border positive values are used as they are, others are taken
            as just outside: every surface is closed.
        weights: raw weights of each cube: 12 β in the order of `tables.EDGES`, 8 α in the order of `tables.CORNERS`,
            1 γ. Zeros are neutral.
        training: True inserts a vertex into every quad, which lets γ have a gradient; False cuts quads in two along the
            diagonal that γ chooses.

    Returns:
        One mesh per object; one that is empty or full has no vertices and `valid` is False.

    Raises:
        ValueError: shapes do not fit, the field is not finite, or a tensor is neither float32 nor float64.

    Source: Shen et al. 2023, "Flexible Isosurface Extraction for Gradient-Based Mesh Optimization".
    """
    _check(positions, sdf, weights)
    topology = find_surface(sdf)
    return dual_mesh(
        topology,
        positions.reshape(-1, 3).index_select(0, topology.points),
        sdf.reshape(-1).index_select(0, topology.points),
        weights.reshape(-1, WEIGHTS).index_select(0, topology.cubes),
        training=training,
    )


def _check(positions: Tensor, sdf: Tensor, weights: Tensor) -> None:
    check_grid(sdf)
    batch, count = sdf.shape[:2]
    for name, tensor, shape in (
        ("positions", positions, (batch, *3 * (count,), 3)),
        ("weights", weights, (batch, *3 * (count - 1,), WEIGHTS)),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape} for an sdf of {tuple(sdf.shape)}, not {tuple(tensor.shape)}")
    kinds = {positions.dtype, sdf.dtype, weights.dtype}
    if len(kinds) != 1 or not kinds <= {torch.float32, torch.float64}:
        raise ValueError(
            "positions, sdf and weights must all be float32 or all float64, not "
            f"{', '.join(str(t.dtype) for t in (positions, sdf, weights))}: cast them first"
        )
