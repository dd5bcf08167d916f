"""Where the cameras of one object stand, and which of its views make one training sample together.

40 views are the published layout (two rings and the poles, G-buffer Objaverse); any other number is spread evenly over
a sphere. All that varies from object to object follows from a hash of the seed and the object's uid: no generator
whose stream could change, no dependence on the order in which objects are drawn.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import UserError
from sar3d.geometry import intrinsics, look_at, spherical_to_cartesian

PUBLISHED_VIEWS = 40
PUBLISHED_GROUP = 12

_UPPER, _TOP, _BOTTOM, _LOWER = tuple(range(24)), 25, 26, tuple(range(27, 39))
"""View ids of the published layout. 24 stands where 0 stands and 39 where 27 stands, so neither is a camera here."""

_FRONT = -90.0
"""Azimuth of view 0: on the -y axis, which faces the +z front of a glTF object turned z-up."""
_MARGIN = 0.025
"""Part of the image left free at each edge when the radius is fitted."""
_LEAST_RADIUS = 1.5
_LEAST_DEPTH = 0.1
_LOWER_RATIO = 1.1
_CHUNK = 32768


@dataclass(frozen=True)
class CameraLayoutConfig:
    """The cameras around every object."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    views: int = PUBLISHED_VIEWS
    """Views per object. 40 is the published layout, whose 38 different cameras are drawn; else a Fibonacci sphere."""
    radius: float | Literal["fit"] = "fit"
    """Distance of every camera from the origin; "fit" finds, per object, the least one that cuts nothing off."""
    fov: float = 39.6
    """Angle between opposite image edges, degrees."""
    upper_elevation: tuple[float, float] = (5.0, 25.0)
    """Range in degrees from which each object's upper ring takes its elevation (40 views only)."""
    lower_elevation: tuple[float, float] = (-2.0, 5.0)
    """Range in degrees from which each object's lower ring takes its elevation (40 views only)."""
    jitter: float = 0.0
    """Shifts each camera by up to this many degrees of azimuth and elevation, and outwards by up to this many
    per cent of the radius; 0 leaves the layout regular."""
    group_size: int = PUBLISHED_GROUP
    """Views in one training sample. With 40 views and groups of 12 the published composition is used."""
    seed: int = 0
    """Changes every per-object draw: elevations, jitter, groups."""

    def __post_init__(self) -> None:
        """Raises UserError for the first value that makes no camera."""
        for value, least, name in ((self.views, 1, "views"), (self.group_size, 1, "group_size")):
            if value < least:
                raise UserError(f"the camera layout's {name} is {value}: give {least} or more")
        if self.views > np.iinfo(np.int16).max:
            raise UserError(f"the camera layout's views is {self.views}: give at most {np.iinfo(np.int16).max}")
        if self.radius != "fit" and not (isinstance(self.radius, int | float) and 0 < self.radius < math.inf):
            raise UserError(f'the camera layout\'s radius is {self.radius!r}: give a positive number or "fit"')
        if not 1 <= self.fov <= 170:
            raise UserError(f"the camera layout's fov is {self.fov}: give an angle from 1 to 170 degrees")
        if not 0 <= self.jitter < 50:
            raise UserError(f"the camera layout's jitter is {self.jitter}: give 0 or more, and less than 50")
        for name in ("upper_elevation", "lower_elevation"):
            low, high = getattr(self, name)
            if not -89 <= low <= high <= 89:
                raise UserError(
                    f"the camera layout's {name} is ({low}, {high}): give two angles within -89 and 89 in order"
                )


@dataclass(frozen=True)
class Cameras:
    """The V different cameras of one object."""

    view_ids: tuple[int, ...]
    """V ids, ascending; they name views in `groups` and in file rows."""
    c2w: NDArray[np.float64]
    """(V, 4, 4) camera-to-world, OpenCV."""
    K: NDArray[np.float64]
    """(V, 3, 3) normalized intrinsics."""
    groups: tuple[tuple[int, ...], ...]
    """View ids of each training sample; the first 6 of a group are the encoder's."""


def cameras(config: CameraLayoutConfig, uid: str, points: NDArray[np.floating]) -> Cameras:
    """The cameras and view groups of the object `uid`, whose vertices (normalized, z up) are `points` (N, 3).

    The same arguments always give the same result. `points` matter only where the radius is fitted: then the whole
    object lies inside every image, 2.5 % from the edges, and no camera is nearer than 1.5.

    Raises:
        ValueError: the radius is fitted and `points` is empty, misshapen or not finite.
    """
    published = config.views == PUBLISHED_VIEWS
    view_ids = (*_UPPER, _TOP, _BOTTOM, *_LOWER) if published else tuple(range(config.views))
    angles = _published_angles(config, uid) if published else _fibonacci_angles(config.views)
    angles = _jittered(config, uid, view_ids, angles)
    directions = spherical_to_cartesian(1.0, angles[:, 0], angles[:, 1])
    lower = np.isin(view_ids, _LOWER) if published else np.zeros(len(view_ids), bool)
    radii = _radii(config, directions, lower, points)
    radii = radii * (1 + config.jitter / 100 * np.array([_unit(config, uid, f"radius {v}") for v in view_ids]))
    if published and config.group_size == PUBLISHED_GROUP:
        groups = _published_groups(config, uid)
    else:
        order = sorted(range(len(view_ids)), key=lambda i: _unit(config, uid, f"group {view_ids[i]}"))
        picks = _spread_groups(directions[order], config.group_size)
        groups = tuple(tuple(view_ids[order[i]] for i in pick) for pick in picks)
    k = np.broadcast_to(intrinsics(config.fov), (len(view_ids), 3, 3)).copy()
    return Cameras(view_ids, look_at(directions * radii[:, None]), k, groups)


def _unit(config: CameraLayoutConfig, uid: str, what: str) -> float:
    """A number in [0, 1) that is a function of the seed, the object and `what` it is for."""
    digest = hashlib.sha256(f"{config.seed}\0{uid}\0{what}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _signed(config: CameraLayoutConfig, uid: str, what: str) -> float:
    return 2 * _unit(config, uid, what) - 1


def _published_angles(config: CameraLayoutConfig, uid: str) -> NDArray[np.float64]:
    """(38, 2) elevations and azimuths in degrees, in the order of view ids."""
    upper, lower = (
        low + (high - low) * _unit(config, uid, name)
        for name, (low, high) in (("upper", config.upper_elevation), ("lower", config.lower_elevation))
    )
    rows = [(upper, _FRONT + 15.0 * i) for i in range(24)]
    rows += [(90.0, _FRONT), (-90.0, _FRONT)]
    rows += [(lower, _FRONT + 30.0 * i) for i in range(12)]
    return np.array(rows)


def _fibonacci_angles(count: int) -> NDArray[np.float64]:
    """(count, 2) elevations and azimuths in degrees of points spread evenly over the sphere, top first."""
    steps = np.arange(count)
    elevation = np.degrees(np.arcsin(1 - (2 * steps + 1) / count))
    return np.stack([elevation, _FRONT + np.degrees(steps * np.pi * (3 - math.sqrt(5)))], axis=-1)


def _jittered(
    config: CameraLayoutConfig, uid: str, view_ids: Sequence[int], angles: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`angles` (V, 2) with every camera shifted; one pushed over a pole comes back on its own side.

    Crossing would turn the image by half a circle from one object to the next.
    """
    if config.jitter == 0:
        return angles
    shifts = [[_signed(config, uid, f"{what} {view}") for what in ("elevation", "azimuth")] for view in view_ids]
    elevation, azimuth = (angles + config.jitter * np.array(shifts)).T
    elevation = np.where(np.abs(elevation) > 90, np.sign(elevation) * 180 - elevation, elevation)
    return np.stack([elevation, azimuth], axis=-1)


def _radii(
    config: CameraLayoutConfig, directions: NDArray[np.float64], lower: NDArray[np.bool_], points: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(V,) distances from the origin: one for the upper ring and the poles, one for the lower ring.

    Fitted ones are rounded up to 1e-4, so that the last bits of a machine's matrix product move no camera.
    """
    if config.radius != "fit":
        return np.full(len(directions), float(config.radius))
    needed = np.ceil(_fit(directions, intrinsics(config.fov)[0, 0], points) * 1e4) / 1e4
    main = max(_LEAST_RADIUS, float(needed[~lower].max()))
    below = max(_LOWER_RATIO * main, float(needed[lower].max(initial=0.0)))
    return np.where(lower, below, main)


def _fit(directions: NDArray[np.float64], focal: float, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """(V,) least distances at which cameras in `directions` (V, 3), looking at the origin, hold all `points`.

    A point p is at depth r + p·forward, so each image edge, and the nearest allowed depth, bounds r below by a linear
    function of p: the maximum over all points is exact and costs one matrix product.
    """
    cloud = np.asarray(points, np.float64)
    if cloud.ndim != 2 or cloud.shape[1] != 3 or not len(cloud) or not np.isfinite(cloud).all():
        raise ValueError(f"the radius is fitted to finite points (N, 3), not to an array of shape {cloud.shape}")
    right, down, forward = np.moveaxis(look_at(directions)[:, :3, :3], -1, 0)
    reach = focal / (0.5 - _MARGIN)
    edges = np.stack([side * reach * axis - forward for axis in (right, down) for side in (1, -1)], axis=1)
    stacked = np.concatenate([edges, -forward[:, None]], axis=1).reshape(-1, 3).T
    best = np.full(stacked.shape[1], -np.inf)
    for start in range(0, len(cloud), _CHUNK):
        np.maximum(best, (cloud[start : start + _CHUNK] @ stacked).max(axis=0), out=best)
    least = best.reshape(-1, 5)
    least[:, 4] += _LEAST_DEPTH
    return least.max(axis=1)


def _published_groups(config: CameraLayoutConfig, uid: str) -> tuple[tuple[int, ...], ...]:
    """4 groups of 12: each half is a pole (top first, bottom second), 3 views of the upper ring and 2 of the lower.

    The pole leads its half because image conditions are taken from views 1 to 4 of a group and never show a pole.
    Each upper view is used once; the last group takes lower views that earlier groups have used already.
    """

    def shuffled(items: Sequence[int], what: str) -> list[int]:
        return sorted(items, key=lambda item: _unit(config, uid, f"{what} {item}"))

    upper = shuffled(_UPPER, "upper order")
    lower = shuffled(_LOWER, "lower order") + shuffled(_LOWER, "lower again")[:4]
    groups = []
    for g in range(4):
        halves: list[int] = []
        for half, pole in enumerate((_TOP, _BOTTOM)):
            n = 2 * g + half
            ring = upper[3 * n : 3 * n + 3] + lower[2 * n : 2 * n + 2]
            halves += [pole, *shuffled(ring, f"half {n}")]
        groups.append(tuple(halves))
    return tuple(groups)


def _spread_groups(directions: NDArray[np.float64], size: int) -> list[list[int]]:
    """Indices of each group over `directions` (V, 3): every view used, every prefix of a group spread out.

    The groups pick in turn, each the view farthest from those it has: first among the views nobody has taken, and,
    when none are left, among all that it lacks itself.
    """
    count = len(directions)
    wanted = min(size, count)
    groups: list[list[int]] = [[] for _ in range(math.ceil(count / size))]
    gaps = [np.full(count, np.inf) for _ in groups]
    free = np.ones(count, bool)
    for _ in range(wanted):
        for group, gap in zip(groups, gaps, strict=True):
            allowed = free.copy() if free.any() else np.isin(np.arange(count), group, invert=True)
            pick = int(np.argmax(np.where(allowed, gap, -1.0)))
            group.append(pick)
            free[pick] = False
            np.minimum(gap, 1 - directions @ directions[pick], out=gap)
            gap[group] = 0.0
    return groups
