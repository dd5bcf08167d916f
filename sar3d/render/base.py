"""What every renderer takes and gives, and the interface between them."""

import threading
from dataclasses import dataclass
from typing import Literal, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.scene import Scene

Backend = Literal["moderngl", "pyrender", "raycast"]
BACKENDS: tuple[Backend, ...] = cast(tuple[Backend, ...], get_args(Backend))
"""In order of preference: the fastest first, the one that needs no OpenGL last."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class RenderSettings:
    """How a scene is drawn; two equal settings give equal pictures whatever the scene and the cameras."""

    resolution: int = 256
    """Height and width of a frame in pixels."""
    lit: bool = True
    """Shade by the lights of `lighting`; otherwise every surface shows its base color."""

    def __post_init__(self) -> None:
        if not 1 <= self.resolution <= 4096:
            raise ValueError(f"a frame of {self.resolution} pixels cannot be drawn: choose 1 to 4096")


@dataclass(frozen=True)
class Frames:
    """V pictures of one scene.

    Depth and normal of a pixel are those of the surface on the ray through the pixel's exact center, never a mean over
    an edge. Color and alpha are filtered over the pixel's neighborhood (`sampling`). A BLEND surface has depth and
    normal where its alpha is at least 0.5; where it is less it only tints what lies behind.
    """

    rgb: NDArray[np.uint8]
    """(V, H, W, 3) sRGB, composited on white in encoded values: color * alpha + 255 * (1 - alpha)."""
    alpha: NDArray[np.uint8]
    """(V, H, W) coverage times opacity."""
    depth: NDArray[np.float32]
    """(V, H, W) distance along the camera's forward axis in scene units; 0 = background."""
    normal: NDArray[np.float32]
    """(V, H, W, 3) unit, world frame: interpolated vertex normals turned to the camera; 0 = background."""

    @staticmethod
    def empty(views: int, resolution: int) -> "Frames":
        """Frames of white background."""
        shape = (views, resolution, resolution)
        return Frames(
            rgb=np.full((*shape, 3), 255, np.uint8),
            alpha=np.zeros(shape, np.uint8),
            depth=np.zeros(shape, np.float32),
            normal=np.zeros((*shape, 3), np.float32),
        )


class Renderer(Protocol):
    """Draws scenes. Use it, from its first picture to `close`, on one thread."""

    name: Backend

    def render(self, scene: Scene, c2w: Floats, intrinsics: Floats, settings: RenderSettings) -> Frames:
        """Draw V views of `scene`.

        `c2w` (V, 4, 4): OpenCV camera-to-world. `intrinsics` (V, 3, 3): for image coordinates in [0, 1], so that the
        center of pixel (row i, column j) is ((j + 0.5) / W, (i + 0.5) / H).

        Raises ObjectError("blank_frame") if a view that should show the scene is empty.
        """

    def close(self) -> None:
        """Release everything; the renderer cannot be used afterwards."""


def check_cameras(c2w: Floats, intrinsics: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as float64; ValueError unless they are (V, 4, 4) and (V, 3, 3), V at least 1, and finite."""
    poses, lenses = np.asarray(c2w, np.float64), np.asarray(intrinsics, np.float64)
    views = len(poses)
    if poses.shape != (views, 4, 4) or lenses.shape != (views, 3, 3) or views == 0:
        raise ValueError(f"cameras must be (V, 4, 4) and (V, 3, 3), not {poses.shape} and {lenses.shape}")
    if not (np.isfinite(poses).all() and np.isfinite(lenses).all()):
        raise ValueError("cameras must be finite")
    return poses, lenses


def refuse_empty_scene(scene: Scene) -> None:
    """ObjectError("no_faces") where there is nothing to draw."""
    if scene.triangles == 0:
        raise ObjectError("no_faces", "The object has no triangles; there is nothing to render.")


def visible_area(scene: Scene, c2w: NDArray[np.float64], intrinsics: NDArray[np.float64]) -> float:
    """Area on one image of the triangles that lie in view entirely, in units of the whole image.

    Overlaps count twice. `c2w` (4, 4), `intrinsics` (3, 3).
    """
    project = intrinsics @ np.linalg.inv(c2w)[:3]
    total = 0.0
    for p in scene.primitives:
        homogeneous = p.positions @ project[:, :3].T + project[:, 3]
        z = homogeneous[:, 2]
        in_front = z > 1e-3
        uv = homogeneous[:, :2] / np.where(in_front, z, 1.0)[:, None]
        inside = in_front & np.all((uv > 0) & (uv < 1), axis=1)
        corners = uv[p.faces[inside[p.faces].all(axis=1)]]
        a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        total += float(np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / 2
    return total


def refuse_blank(scene: Scene, frames: Frames, c2w: NDArray[np.float64], intrinsics: NDArray[np.float64]) -> None:
    """ObjectError("blank_frame") for a frame without a pixel in which the scene should cover more than two.

    A broken graphics driver or context draws nothing and says nothing. A sheet seen exactly edge-on is rightly empty.
    """
    pixel = 1.0 / frames.alpha[0].size
    for view in np.flatnonzero(~frames.alpha.any(axis=(1, 2))):
        area = visible_area(scene, c2w[view], intrinsics[view]) / pixel
        if area > 2:
            raise ObjectError(
                "blank_frame",
                f"View {view} is empty though {area:.0f} pixels of surface lie in it: the object is fully transparent, "
                "or the graphics driver failed.",
            )


class OneThread:
    """Remembers the first thread that passes and refuses every other: a GL context belongs to the thread it is current
    on, and drawing from another yields black or garbage frames without an error."""

    def __init__(self) -> None:
        self._owner: int | None = None

    def check(self) -> None:
        here = threading.get_ident()
        if self._owner is None:
            self._owner = here
        elif self._owner != here:
            raise RuntimeError("a renderer was used from a second thread: make one renderer per thread")


def bounding_sphere(scene: Scene) -> tuple[NDArray[np.float64], float]:
    """Center (3,) and radius of a sphere around the scene."""
    low, high = scene.bounds()
    return (low + high) / 2, float(np.linalg.norm(high - low)) / 2


def near_far(sphere: tuple[NDArray[np.float64], float], c2w: NDArray[np.float64]) -> tuple[float, float]:
    """Depth range of the sphere seen from `c2w` (4, 4), a little widened; near stays positive inside the sphere."""
    center, radius = sphere
    z = float((center - c2w[:3, 3]) @ c2w[:3, 2])
    margin = 0.01 * radius + 1e-4
    far = max(z + radius + margin, 1e-2)
    return max(z - radius - margin, far * 1e-3), far
