"""A system's file to a mesh, splats or pictures, parsed in a limited process: the files come from strangers."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sar3d.compare.files import Found
from sar3d.compare.systems import Layout
from sar3d.errors import ObjectError
from sar3d.isolation import LimitedProcess, Limits
from sar3d.meshes import MeshLimits, Scene
from sar3d.meshes.colors import srgb_to_linear
from sar3d.meshes.scene import Primitive
from sar3d.meshes.worker import unpack_scene
from sar3d.splats import Splats
from sar3d.splats.worker import unpack_splats


@dataclass(frozen=True)
class Loaded:
    """What a file holds, in the frame of the file; exactly one of the three."""

    uid: str
    layout: Layout
    elevation: float | None
    azimuth: float | None
    scene: Scene | None = None
    splats: Splats | None = None
    pictures: NDArray[np.uint8] | None = None
    """(V, H, W, 3) on white."""


def import_process(limits: Limits = Limits(120.0)) -> LimitedProcess:  # noqa: B008  frozen
    """A process for `load_found`; it starts at the first call. Close it, or use it as a context manager."""
    return LimitedProcess("sar3d.compare.worker:handle", limits, env={"OMP_NUM_THREADS": "1"})


def load_found(
    found: Found,
    process: LimitedProcess,
    limits: MeshLimits = MeshLimits(),  # noqa: B008  frozen
    root: Path | None = None,
) -> Loaded:
    """Read one object's file.

    Args:
        root: the folder outside which nothing is opened for a mesh; default the file's own.

    Raises `ObjectError`: what the readers of meshes and splats raise, `bad_archive`, `no_pictures`, `bad_picture`, and
    what `LimitedProcess.call` raises.
    """
    kind = found.layouts[0].kind
    reply, blobs = process.call(
        {"kind": kind, "path": str(found.path), "root": str(root or ""), "limits": asdict(limits)}
    )
    try:
        if kind == "mesh":
            scene = unpack_scene(reply, blobs)
            layout = _written_by(found, scene)
            if layout.gltf_colors == "srgb" and found.path.suffix.lower() == ".glb":
                scene = _linear(scene)
            return Loaded(found.uid, layout, found.elevation, found.azimuth, scene=scene)
        if kind == "splats":
            splats = unpack_splats(reply, blobs)
            return Loaded(found.uid, found.layouts[0], found.elevation, found.azimuth, splats=splats)
        pictures = np.frombuffer(blobs[0], np.uint8).reshape(*reply["shape"], 3)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ObjectError("crashed", f"its process sent something that makes no sense ({error})") from error
    return Loaded(found.uid, found.layouts[0], found.elevation, found.azimuth, pictures=pictures)


def _written_by(found: Found, scene: Scene) -> Layout:
    """The layout of the writer that wrote a mesh."""
    textured = any(p.material.texture is not None for p in scene.primitives)
    writer = "textured" if textured else "vertex_colors"
    return next((layout for layout in found.layouts if layout.writer in ("any", writer)), found.layouts[0])


def _linear(scene: Scene) -> Scene:
    """With vertex colors that were taken for linear, and are not, made so."""
    return replace(scene, primitives=tuple(_with_linear_colors(p) for p in scene.primitives))


def _with_linear_colors(primitive: Primitive) -> Primitive:
    if primitive.colors is None:
        return primitive
    colors = np.concatenate([srgb_to_linear(primitive.colors[:, :3]), primitive.colors[:, 3:]], axis=1)
    return replace(primitive, colors=colors)
