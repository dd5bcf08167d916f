"""What is measured of one placed object against its truth: shape numbers, points for COV and MMD; and the noise floor."""

from dataclasses import dataclass

import numpy as np
import trimesh

from sar3d.compare.place import Placed
from sar3d.errors import ObjectError
from sar3d.metrics.config import ShapeConfig
from sar3d.metrics.shapes.chamfer import DISTANCES, chamfer
from sar3d.metrics.shapes.points import Points, box_fit, generator, mesh_of, sample_surface
from sar3d.metrics.shapes.surface import DEFAULTS, compare_shapes, noise_floor

CLOUD = 2048
"""Points of an object for COV, MMD and 1-NNA."""
_SOLID = 0.05
"""Opacity from which a splat counts as surface."""


@dataclass(frozen=True)
class Measured:
    """Numbers of one object of one system."""

    values: dict[str, float]
    """By metric."""
    absent: dict[str, str]
    """Reasons by metric without a value."""
    points: Points
    """(N, 3) in the unit box."""
    points_from: str
    """`mesh` or `splat_centers`."""


def measure_shape(
    placed: Placed, truth: Placed, uid: str, posed: Placed | None = None, config: ShapeConfig = DEFAULTS
) -> Measured:
    """A system's object against the true one.

    Args:
        placed: with its box fitted, turned as wanted.
        truth: a mesh.
        posed: with its own size and position, or None where its files do not keep them: numbers that compare these are
            absent then.

    Raises:
        ObjectError: one of the two has no surface.
    """
    true = _true_mesh(truth)
    if placed.scene is None:
        return _of_centers(placed, truth, uid)
    found = compare_shapes(mesh_of(placed.scene), true, uid, config, normalizations=("unit_box",))
    values, absent = dict(found.values), dict(found.absent)
    if posed is not None and posed.scene is not None:
        at_scale = compare_shapes(mesh_of(posed.scene), true, uid, config, normalizations=("posed",))
        values, absent = values | at_scale.values, absent | at_scale.absent
    else:
        names = (name.removesuffix("_unit_box") for name in found.values)
        absent |= {f"{name}_posed": "its files do not keep the size and position of the object" for name in names}
    return Measured(values, absent, cloud_of(placed, uid, "made"), "mesh")


def measure_floor(truth: Placed, uid: str, config: ShapeConfig = DEFAULTS) -> Measured:
    """What the numbers say of a second sample of the truth: the noise that every number has. Raises as `measure_shape`."""
    found = noise_floor(_true_mesh(truth), uid, config)
    return Measured(found.values, found.absent, cloud_of(truth, uid, "truth again"), "mesh")


def _true_mesh(truth: Placed) -> trimesh.Trimesh:
    if truth.scene is None:
        raise ValueError("the truth is a mesh")
    return mesh_of(truth.scene)


def cloud_of(placed: Placed, uid: str, role: str, count: int = CLOUD) -> Points:
    """(N, 3) points of an object in the unit box: spread over its surface, or centers of its splats, drawn by opacity.

    Raises:
        ObjectError: it has no surface, or no splat is opaque enough (`transparent`).
    """
    if placed.scene is not None:
        points = sample_surface(mesh_of(placed.scene), count, uid, role).points
        return box_fit(np.concatenate([p.positions[np.unique(p.faces)] for p in placed.scene.primitives]))(points)
    if placed.splats is None:
        raise ValueError("there are no points in pictures")
    solid = placed.splats.opacities > _SOLID
    if not solid.any():
        raise ObjectError("transparent", "all its splats are nearly transparent, so it has no surface")
    centers, weights = placed.splats.means[solid].astype(np.float64), placed.splats.opacities[solid].astype(np.float64)
    random = generator(uid, role, 0)
    chosen = random.choice(len(centers), count, replace=count > len(centers), p=weights / weights.sum())
    return box_fit(centers)(centers[chosen])


def _of_centers(placed: Placed, truth: Placed, uid: str) -> Measured:
    """Of splats, only distances between points are known."""
    points, true = cloud_of(placed, uid, "made"), cloud_of(truth, uid, "truth")
    values = {f"sampled_{d}_unit_box": chamfer(points, true, d) for d in DISTANCES}
    names = ("chamfer_l1", "chamfer_l2", "normal_consistency", "signed_normal_consistency", "volume_iou")
    absent = {f"{name}_unit_box": "splats have no surface, only centers" for name in names}
    return Measured(values, absent, points, "splat_centers")
