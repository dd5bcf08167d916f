"""Load files from strangers in a process of their own; scenes come back as arrays, never as pickles."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.isolation import Json, LimitedProcess, Limits
from sar3d.meshes.limits import MeshLimits
from sar3d.meshes.load import UpAxis, check_axis, load_scene
from sar3d.meshes.scene import Material, Primitive, Scene, Texture

_ARRAYS: dict[str, tuple[str, int]] = {
    "positions": ("<f4", 3),
    "normals": ("<f4", 3),
    "faces": ("<u4", 3),
    "uvs": ("<f4", 2),
    "colors": ("<f4", 4),
}


def loader_process(limits: Limits = Limits()) -> LimitedProcess:  # noqa: B008  frozen
    """A process for `load_safely`; it starts at the first call. Close it, or use it as a context manager."""
    # One loader uses one core; a machine runs many.
    return LimitedProcess("sar3d.meshes.worker:handle", limits, env={"OMP_NUM_THREADS": "1"})


def load_safely(
    path: Path,
    root: Path | None = None,
    limits: MeshLimits = MeshLimits(),  # noqa: B008  frozen
    up: UpAxis = "y",
    process: LimitedProcess | None = None,
) -> Scene:
    """`load_scene` in `process`, or, where none is given, in one that lives for this call only (0.3 s).

    Raises ObjectError: what `load_scene` raises, and what `LimitedProcess.call` raises for a file that makes a native
    decoder hang, crash or fill the memory. The arrays of the scene are read-only.
    """
    check_axis(up)
    if process is None:
        with loader_process() as own:
            return load_safely(path, root, limits, up, own)
    bound = None if root is None else str(root)
    request = {"path": str(path), "root": bound, "limits": dataclasses.asdict(limits), "up": up}
    reply, blobs = process.call(request)
    try:
        return unpack_scene(reply, blobs)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ObjectError("crashed", f"its process sent a scene that makes no sense ({error})") from error


def handle(request: Json, blobs: list[bytes]) -> tuple[Json, list[memoryview]]:
    """The child's side of `load_safely`."""
    root = None if request["root"] is None else Path(request["root"])
    scene = load_scene(Path(request["path"]), root, MeshLimits(**request["limits"]), request["up"])
    return pack_scene(scene)


def pack_scene(scene: Scene) -> tuple[Json, list[memoryview]]:
    """(description, blobs); a texture that several materials share is sent once."""
    blobs: list[memoryview] = []

    def blob(array: NDArray[Any]) -> int:
        blobs.append(np.ascontiguousarray(array).data.cast("B"))
        return len(blobs) - 1

    textures: dict[int, Json] = {}
    materials: dict[int, Json] = {}
    pixels: dict[int, int] = {}
    primitives = []
    for primitive in scene.primitives:
        material = primitive.material
        texture = material.texture
        if texture is not None and id(texture) not in textures:
            if id(texture.pixels) not in pixels:
                pixels[id(texture.pixels)] = blob(texture.pixels)
            options = {name: getattr(texture, name) for name in ("wrap_u", "wrap_v", "nearest")}
            shape = list(texture.pixels.shape[:2])
            number = len(textures)
            textures[id(texture)] = {"n": number, "pixels": pixels[id(texture.pixels)], "shape": shape, **options}
        if id(material) not in materials:
            fields = {name: getattr(material, name) for name in _MATERIAL_FIELDS}
            link = None if texture is None else textures[id(texture)]["n"]
            materials[id(material)] = {"n": len(materials), "texture": link, **fields}
        arrays = {name: getattr(primitive, name) for name in _ARRAYS}
        sent = {name: blob(array) for name, array in arrays.items() if array is not None}
        primitives.append({"material": materials[id(material)]["n"], **sent})
    reply = {
        "primitives": primitives,
        "materials": list(materials.values()),
        "textures": list(textures.values()),
        "offset": list(scene.offset),
        "warnings": list(scene.warnings),
    }
    return reply, blobs


_MATERIAL_FIELDS = ("base_color", "alpha_mode", "alpha_cutoff", "double_sided", "unlit")


def unpack_scene(reply: Json, blobs: Sequence[bytes]) -> Scene:
    """The inverse of `pack_scene`. The sender is not trusted: shapes and face indices are checked, since what draws
    the scene would read past its buffers otherwise. Raises ObjectError `crashed`, or a plain ValueError and such."""
    textures = [
        Texture(
            np.frombuffer(blobs[t["pixels"]], np.uint8).reshape(*t["shape"], 4), t["wrap_u"], t["wrap_v"], t["nearest"]
        )
        for t in reply["textures"]
    ]
    materials = [
        Material(
            base_color=tuple(map(float, m["base_color"])),  # type: ignore[arg-type]
            texture=None if m["texture"] is None else textures[m["texture"]],
            alpha_mode=m["alpha_mode"],
            alpha_cutoff=float(m["alpha_cutoff"]),
            double_sided=bool(m["double_sided"]),
            unlit=bool(m["unlit"]),
        )
        for m in reply["materials"]
    ]
    x, y, z = map(float, reply["offset"])
    warnings = tuple(map(str, reply["warnings"]))
    return Scene(tuple(_primitive(p, materials, blobs) for p in reply["primitives"]), (x, y, z), warnings)


def _primitive(packed: Json, materials: list[Material], blobs: Sequence[bytes]) -> Primitive:
    arrays = {
        name: np.frombuffer(blobs[packed[name]], dtype).reshape(-1, width)
        for name, (dtype, width) in _ARRAYS.items()
        if name in packed
    }
    count = len(arrays["positions"])
    faces = arrays.pop("faces")
    if not len(faces) or faces.max() >= count or any(len(values) != count for values in arrays.values()):
        raise ObjectError("crashed", "its process sent a primitive whose arrays do not fit together")
    return Primitive(faces=faces, material=materials[packed["material"]], **arrays)
