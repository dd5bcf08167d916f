"""FlexiCubes (Shen et al. 2023): meshes from scalar fields, differentiable in field, grid and weights.

A library of its own that needs torch and NumPy alone, on CPU and GPU, in float32 and float64. `extract` is all that
most need; `find_surface` and `dual_mesh` are its two halves, for those who compute field, deformation and weights only
where the surface passes.

    >>> import torch
    >>> from sar3d.flexicubes import extract, regular_grid
    >>> grid = regular_grid(16, 2.0)[None]
    >>> sphere = grid.norm(dim=-1) - 0.7
    >>> (mesh,) = extract(grid, sphere, torch.zeros(1, 16, 16, 16, 21), training=False)
    >>> mesh.valid, mesh.faces.shape[1]
    (True, 3)
"""

from sar3d.flexicubes.extract import extract, regular_grid
from sar3d.flexicubes.mesh import WEIGHT_SCALE, FlexiMesh, dual_mesh
from sar3d.flexicubes.regularizers import edge_sign_consistency, sign_consistency, surface_presence
from sar3d.flexicubes.topology import Topology, find_surface

__all__ = [
    "WEIGHT_SCALE",
    "FlexiMesh",
    "Topology",
    "dual_mesh",
    "edge_sign_consistency",
    "extract",
    "find_surface",
    "regular_grid",
    "sign_consistency",
    "surface_presence",
]
