"""What is measured of one placed object against its truth: shape numbers, points for COV and MMD, and a noise floor."""

from dataclasses import dataclass

import numpy as np

from sar3d.compare.place import Placed
from sar3d.errors import ObjectError
from sar3d.metrics.shapes.chamfer import DISTANCES, chamfer
from sar3d.metrics.shapes.points import Points, box_fit, generator, mesh_of, sample_surface
from sar3d.metrics.shapes.surface import DEFAULTS, ShapeConfig, compare_shapes, noise_floor

CLOUD = 2048
"""Points of an object for COV, MMD and 1-NNA."""
_SOLID = 0.05
"""Opacity from which a splat counts as surface."""


@dataclass(frozen=True)
class Measured:
    """Numbers of one object of one system."""

    values: dict[str, float]
    """By metric."""
    floor: dict[str, float]
    """Of the truth against itself, by metric."""
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
    if truth.scene is None:
        raise ValueError("the truth is a mesh")
    true = mesh_of(truth.scene)
    floor = noise_floor(true, uid, config).values
    if placed.scene is None:
        return _of_centers(placed, truth, uid, floor)
    unknown = "its files do not keep the size and position of the object"
    found = compare_shapes(mesh_of(placed.scene), true, uid, config)
    values = {name: value for name, value in found.values.items() if name.endswith("_unit_box")}
    absent = {name: reason for name, reason in found.absent.items() if name.endswith("_unit_box")}
    if posed is not None and posed.scene is not None:
        at_scale = compare_shapes(mesh_of(posed.scene), true, uid, config)
        values |= {name: value for name, value in at_scale.values.items() if name.endswith("_posed")}
        absent |= {name: reason for name, reason in at_scale.absent.items() if name.endswith("_posed")}
    else:
        absent |= {name: unknown for name in found.values if name.endswith("_posed")}
    return Measured(values, floor, absent, cloud_of(placed, uid, "made"), "mesh")


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


def _of_centers(placed: Placed, truth: Placed, uid: str, floor: dict[str, float]) -> Measured:
    """Of splats, only distances between points are known."""
    points, true = cloud_of(placed, uid, "made"), cloud_of(truth, uid, "truth")
    values = {f"sampled_{d}_unit_box": chamfer(points, true, d) for d in DISTANCES}
    absent = {name: "splats have no surface, only centers" for name in floor if name not in values}
    return Measured(values, floor, absent, points, "splat_centers")
