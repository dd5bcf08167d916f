"""One shape against its truth: chamfer distances, F-scores, normal consistency, volume IoU, on all or on visible surface.

Points are drawn on one surface and their distance to the nearest triangle of the other is exact (libigl's AABB tree), so
a shape compared with itself has distance 0. `sampled_chamfer_*` are those between the points of both, as COV and MMD take
them: they are above 0 even then. What all metrics say of two independent samples of one surface is their noise floor
(`noise_floor`): print it beside the numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import igl
import numpy as np
import trimesh
from numpy.typing import NDArray

from sar3d.metrics.config import ShapeConfig
from sar3d.metrics.shapes.chamfer import DISTANCES, chamfer
from sar3d.metrics.shapes.points import (
    NORMALIZATIONS,
    Normalization,
    Points,
    SurfacePoints,
    fits,
    fitted,
    generator,
    sample_surface,
    used_vertices,
)
from sar3d.metrics.shapes.visible import visible_points

DEFAULTS = ShapeConfig()


@dataclass(frozen=True)
class ShapeNumbers:
    """What was measured of one shape."""

    values: dict[str, float]
    """By metric and normalization, such as `chamfer_l1_unit_box` or `visible_fscore_0.01_posed`."""
    absent: dict[str, str]
    """Metrics that have no value, with the reason in one sentence."""


def compare_shapes(
    made: trimesh.Trimesh,
    truth: trimesh.Trimesh,
    uid: str,
    config: ShapeConfig = DEFAULTS,
    role: str = "made",
    normalizations: Sequence[Normalization] = NORMALIZATIONS,
) -> ShapeNumbers:
    """All numbers of a mesh against its truth, by each normalization. Both stand in the same world.

    Args:
        uid: of the object; the points follow from it.
        role: what the first mesh's points are drawn for; see `sample_surface`.
        normalizations: those that are wanted.

    Raises:
        ObjectError: one of the two has no surface.
    """
    values: dict[str, float] = {}
    absent: dict[str, str] = {}
    for normalization in normalizations:
        fit, true_fit = fits(used_vertices(made), used_vertices(truth), normalization)
        pair = _Pair(fitted(made, fit), fitted(truth, true_fit), uid, role, config)
        values |= {f"{name}_{normalization}": value for name, value in pair.surface("").items()}
        for name, found in (("visible surface", pair.visible()), ("volume_iou", pair.volume_iou())):
            if isinstance(found, str):
                absent[f"{name}_{normalization}"] = found
            else:
                values |= {f"{metric}_{normalization}": value for metric, value in found.items()}
    return ShapeNumbers(values, absent)


def noise_floor(truth: trimesh.Trimesh, uid: str, config: ShapeConfig = DEFAULTS) -> ShapeNumbers:
    """The same numbers of the truth against itself, by independent points. Raises `ObjectError` as `compare_shapes`."""
    return compare_shapes(truth, truth, uid, config, role="truth again")


@dataclass(frozen=True)
class _Pair:
    """Two normalized meshes."""

    made: trimesh.Trimesh
    truth: trimesh.Trimesh
    uid: str
    role: str
    config: ShapeConfig

    def surface(self, prefix: str) -> dict[str, float]:
        made = sample_surface(self.made, self.config.points, self.uid, self.role, self.config.seed)
        truth = sample_surface(self.truth, self.config.points, self.uid, "truth", self.config.seed)
        return self._compared(made, truth, prefix)

    def visible(self) -> dict[str, float] | str:
        """Of the points that are seen from outside; interior shells do not count."""
        made = visible_points(self.made, self.config.points, self.uid, self.role, self.config.seed)
        truth = visible_points(self.truth, self.config.points, self.uid, "truth", self.config.seed)
        if made is None or truth is None:
            return f"no point of the {'generated' if made is None else 'true'} surface is seen from outside"
        return self._compared(made, truth, "visible_")

    def _compared(self, made: SurfacePoints, truth: SurfacePoints, prefix: str) -> dict[str, float]:
        there, back = _Nearest.on(self.truth, made.points), _Nearest.on(self.made, truth.points)
        cosine = np.concatenate(
            [np.sum(made.normals * there.normals, axis=1), np.sum(truth.normals * back.normals, axis=1)]
        )
        values = {
            "chamfer_l1": (there.distance.mean() + back.distance.mean()) / 2,
            "chamfer_l2": np.square(there.distance).mean() + np.square(back.distance).mean(),
            "normal_consistency": np.abs(cosine).mean(),
            "signed_normal_consistency": cosine.mean(),
        }
        values |= {f"sampled_{d}": chamfer(made.points, truth.points, d) for d in DISTANCES}
        values |= {f"fscore_{t:g}": _fscore(there.distance, back.distance, t) for t in self.config.thresholds}
        return {f"{prefix}{name}": float(value) for name, value in values.items()}

    def volume_iou(self) -> dict[str, float] | str:
        if not self.truth.is_watertight:
            return "the truth is not watertight, so it has no volume"
        corners = np.concatenate([self.made.bounds, self.truth.bounds])
        low, high = corners.min(axis=0), corners.max(axis=0)
        random = generator(self.uid, "volume", self.config.seed)
        points = low + random.random((self.config.volume_points, 3)) * (high - low)
        made, truth = inside(self.made, points), inside(self.truth, points)
        either = int((made | truth).sum())
        return {"volume_iou": float((made & truth).sum()) / either} if either else "neither shape has a volume"


@dataclass(frozen=True)
class _Nearest:
    """Of N points, the nearest ones on a mesh."""

    distance: NDArray[np.float64]
    normals: Points

    @staticmethod
    def on(mesh: trimesh.Trimesh, points: Points) -> "_Nearest":
        square, face, _ = igl.point_mesh_squared_distance(
            np.ascontiguousarray(points),
            np.ascontiguousarray(mesh.vertices),
            np.ascontiguousarray(mesh.faces, np.int64),
        )
        return _Nearest(np.sqrt(np.maximum(square, 0)), np.asarray(mesh.face_normals[face]))


def inside(mesh: trimesh.Trimesh, points: Points) -> NDArray[np.bool_]:
    """(N,) whether points (N, 3) lie inside a mesh: its winding number there is nearer to 1, or to -1, than to 0.

    Closed parts that overlap are one volume, and holes are closed by the smoothest surface (Barill et al. 2018).
    """
    winding = igl.fast_winding_number(
        np.ascontiguousarray(mesh.vertices), np.ascontiguousarray(mesh.faces, np.int64), np.ascontiguousarray(points)
    )
    return np.asarray(np.abs(winding) > 0.5)


def _fscore(there: NDArray[np.float64], back: NDArray[np.float64], threshold: float) -> float:
    """Harmonic mean of the shares of points that are nearer than the threshold (Knapitsch et al. 2017)."""
    precision, recall = float((there < threshold).mean()), float((back < threshold).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
