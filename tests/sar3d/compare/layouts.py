"""One object without any symmetry, written as each system writes it: frame, names, formats and traps."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from splat_files import write_splats

from sar3d.geometry import look_at, spherical_to_cartesian

UID = "8f3a.v2"
"""With a dot: some systems cut names there."""
KEY = UID.partition(".")[0]

PARTS = (
    ((0.90, 0.50, 0.10), (0.00, 0.00, -0.20), (200, 60, 60)),
    ((0.15, 0.15, 0.40), (0.30, -0.15, 0.00), (60, 180, 60)),
    ((0.12, 0.35, 0.12), (-0.35, 0.05, -0.10), (60, 60, 220)),
    ((0.30, 0.08, 0.20), (-0.10, -0.20, -0.05), (230, 200, 40)),
)
"""Boxes: size, middle, color. In our world: z up, the front at -y, longest side 0.9."""


def truth() -> trimesh.Trimesh:
    """The object in our world, its box centered; every box has its own vertices, with colors."""
    boxes = []
    for size, middle, color in PARTS:
        box = trimesh.creation.box(size)
        box.apply_translation(middle)
        box.visual.vertex_colors = np.tile([*color, 255], (len(box.vertices), 1))
        boxes.append(box)
    whole = trimesh.util.concatenate(boxes)
    whole.apply_translation(-whole.bounds.mean(0))
    return whole


def moved(linear: object, scale: float = 1.0) -> trimesh.Trimesh:
    """The object in another frame; a mirroring turns the faces, as writers do that mirror."""
    mesh, matrix = truth(), np.asarray(linear, np.float64)
    faces = mesh.faces[:, ::-1] if np.linalg.det(matrix) < 0 else mesh.faces
    colors = mesh.visual.vertex_colors
    return trimesh.Trimesh(scale * mesh.vertices @ matrix.T, faces, vertex_colors=colors, process=False)


# From our world to the frames of the files, each by hand from what the system does.
SAME = np.eye(3)
Y_UP = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
"""(x, z, -y): the front becomes +z."""
ROT_X_90 = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
ROT_X_MINUS_90 = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
HALF_Z, HALF_Y = np.diag([-1.0, -1.0, 1.0]), np.diag([-1.0, 1.0, -1.0])
FLIP_X, FLIP_Z = np.diag([-1.0, 1.0, 1.0]), np.diag([1.0, 1.0, -1.0])
ONE2345_CONVERTED = FLIP_X @ HALF_Z @ np.array(ROT_X_90)
FRONT_PLUS_X = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
"""The input view at azimuth 0, on +x."""
TRELLIS_PLY = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
"""(x, -z, y)"""


def obj_with_colors(path: Path, mesh: trimesh.Trimesh) -> None:
    """`v x y z r g b`, colors in [0, 1]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = mesh.visual.vertex_colors[:, :3] / 255
    lines = [f"v {' '.join(map(repr, map(float, [*v, *c])))}" for v, c in zip(mesh.vertices, colors, strict=True)]
    lines += [f"f {a} {b} {c}" for a, b, c in mesh.faces + 1]
    path.write_text("\n".join(lines) + "\n")


def textured_obj(mesh: trimesh.Trimesh, name: str) -> dict[str, bytes]:
    """An OBJ, its MTL and its picture: a palette whose texels the faces point at."""
    palette = np.zeros((1, len(PARTS), 3), np.uint8)
    palette[0] = [color for *_, color in PARTS]
    each = len(mesh.vertices) // len(PARTS)
    lines = [f"mtllib {name}.mtl", *(f"v {x} {y} {z}" for x, y, z in mesh.vertices)]
    lines += [f"vt {(i + 0.5) / len(PARTS)} 0.5" for i in range(len(PARTS))]
    lines.append("usemtl material_0")
    for face in mesh.faces:
        lines.append("f " + " ".join(f"{v + 1}/{v // each + 1}" for v in face))
    picture = io.BytesIO()
    Image.fromarray(palette.repeat(16, 0).repeat(16, 1)).save(picture, "PNG")
    material = f"newmtl material_0\nKd 1 1 1\nmap_Kd {name}.png\n"
    return {
        f"{name}.obj": "\n".join(lines).encode(),
        f"{name}.mtl": material.encode(),
        f"{name}.png": picture.getvalue(),
    }


def export(path: Path, mesh: trimesh.Trimesh) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mesh.export(path)


def textured_glb(path: Path, mesh: trimesh.Trimesh) -> None:
    """A GLB with the palette as its texture."""
    palette = np.zeros((1, len(PARTS), 3), np.uint8)
    palette[0] = [color for *_, color in PARTS]
    each = len(mesh.vertices) // len(PARTS)
    uv = np.stack([(np.arange(len(mesh.vertices)) // each + 0.5) / len(PARTS), np.full(len(mesh.vertices), 0.5)], 1)
    picture = Image.fromarray(palette.repeat(16, 0).repeat(16, 1))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    export(path, mesh)


def surface_splats(path: Path, linear: object, scale: float = 1.0, normals: bool = False) -> None:
    """Small opaque splats all over the surface."""
    mesh = truth()
    points, faces = trimesh.sample.sample_surface(mesh, 8000, seed=0)
    colors = mesh.visual.face_colors[faces][:, :3] / 255
    size = np.full((len(points), 3), 0.006 * scale)
    turns = np.tile([1.0, 0, 0, 0], (len(points), 1))
    write_splats(path, scale * points @ np.asarray(linear).T, size, turns, np.full(len(points), 0.98), colors, normals)


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def write_all(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def in_first_camera(elevation: float) -> np.ndarray:
    """World to the axes of a camera in front of the object: x right, y down, z forward."""
    return np.asarray(look_at(spherical_to_cartesian(2.7, elevation, -90.0))[:3, :3]).T


def lara(root: Path, elevation: float) -> None:
    obj_with_colors(root / f"{KEY}.obj", moved(in_first_camera(elevation), 1 / 1.7))


Write = Callable[[Path], None]
MESHES: dict[str, tuple[str, Write]] = {
    "openlrm": (
        "openlrm",
        lambda r: export(r / "dumps/openlrm-obj-base-1.1/meshes/test" / f"{KEY}.ply", moved(SAME, 1.9)),
    ),
    "one-2-3-45 ply": ("one-2-3-45", lambda r: export(r / "exp" / UID / "mesh.ply", moved(SAME, 0.6))),
    "one-2-3-45 glb": ("one-2-3-45", lambda r: export(r / "exp" / UID / "mesh.glb", moved(ONE2345_CONVERTED, 0.6))),
    "one-2-3-45 obj": (
        "one-2-3-45",
        lambda r: obj_with_colors(r / "exp" / UID / "mesh.obj", moved(ONE2345_CONVERTED, 0.6)),
    ),
    "lara": ("lara", lambda r: lara(r, 20.0)),
    "crm zip": ("crm", lambda r: write_zip(r / UID / "output3d.zip", textured_obj(moved(Y_UP, 1.3), "tmpab12"))),
    "crm glb": ("crm", lambda r: textured_glb(r / f"{UID}.glb", moved(Y_UP, 2.0))),
    "lgm glb": ("lgm", lambda r: textured_glb(r / f"{UID}.glb", moved(Y_UP))),
    "shap-e ply": ("shap-e", lambda r: export(r / UID / "example_mesh_0.ply", moved(SAME, 1.1))),
    "shap-e obj": ("shap-e", lambda r: obj_with_colors(r / f"{UID}.obj", moved(SAME, 1.1))),
    "ln3diff": ("ln3diff", lambda r: export(r / "mesh" / f"{UID}.ply", moved(SAME))),
    "gaussiananything": (
        "gaussiananything",
        lambda r: obj_with_colors(r / UID / "sample-0-0-mesh.obj", moved(HALF_Y @ np.array(ROT_X_MINUS_90))),
    ),
    "gaussiananything raw": (
        "gaussiananything",
        lambda r: obj_with_colors(r / UID / "sample-0-0-mesh_raw.obj", moved(SAME)),
    ),
    "instantmesh colors": (
        "instantmesh",
        lambda r: obj_with_colors(r / "large/meshes" / f"{UID}.obj", moved(FLIP_Z @ np.array(FRONT_PLUS_X), 1.5)),
    ),
    "instantmesh texture": (
        "instantmesh",
        lambda r: write_all(r / "large/meshes", textured_obj(moved(FRONT_PLUS_X, 1.5), UID)),
    ),
    "trellis glb": ("trellis", lambda r: textured_glb(r / UID / "sample.glb", moved(Y_UP, 1 / 0.9))),
    "hunyuan3d": ("hunyuan3d-2.1", lambda r: textured_glb(r / UID / "demo_textured.glb", moved(Y_UP, 1.01 / 0.45))),
    "sar3d nerf": ("sar3d", lambda r: export(r / "mesh" / f"{UID}.ply", moved(SAME))),
    "sar3d flexicubes": ("sar3d", lambda r: obj_with_colors(r / UID / "mesh.obj", moved(FLIP_Z, 2.0))),
    "gltf": ("gltf", lambda r: textured_glb(r / f"{UID}.glb", moved(Y_UP, 7.0))),
    "z-up": ("z-up", lambda r: obj_with_colors(r / f"{UID}.obj", moved(SAME, 7.0))),
}
"""By layout: the system and what writes its files for `UID` below a folder."""

SPLAT_FRAMES: dict[str, tuple[object, float]] = {"lgm": (Y_UP, 1.0), "trellis": (TRELLIS_PLY, 1 / 0.9)}
SPLATS: dict[str, tuple[str, Write]] = {
    "lgm": ("lgm", lambda r: surface_splats(r / f"{UID}.ply", *SPLAT_FRAMES["lgm"])),
    "trellis": ("trellis", lambda r: surface_splats(r / UID / "sample.ply", *SPLAT_FRAMES["trellis"], normals=True)),
}
