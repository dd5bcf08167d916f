"""The systems whose output can be measured: which files each writes, in which frame, and what to beware of.

One entry of `SYSTEMS` is one system; a further one needs no other change. Facts were read in the systems' own code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sar3d.compare.frames import GLTF, Z_UP, Axes, FirstCamera, Frame
from sar3d.errors import UserError
from sar3d.splats import SplatSettings

Kind = Literal["mesh", "splats", "pictures"]
Writer = Literal["any", "textured", "vertex_colors"]


@dataclass(frozen=True)
class Layout:
    """One kind of file of a system."""

    kind: Kind
    patterns: tuple[str, ...]
    """Paths below the system's folder, at any depth: `{uid}` is the object, `*` any letters of one name. Of several
    layouts and patterns that fit an object, the first counts. Pictures are all files of a folder that fit."""
    frame: Frame = Z_UP
    units: float | None = None
    """What a length of the file is in our world; None where the files do not keep the object's size."""
    writer: Writer = "any"
    """Of two writers with the same name of file, the one that wrote it."""
    gltf_colors: Literal["linear", "srgb"] = "linear"
    """Vertex colors of its glTF files: as the standard says, or sRGB, as programs write them that take them from a PLY."""
    splats: SplatSettings = SplatSettings()  # noqa: RUF009  frozen
    """How its splats are meant to be drawn."""
    note: str = ""
    """What to beware of, in one sentence."""


@dataclass(frozen=True)
class System:
    """One system."""

    name: str
    title: str
    layouts: tuple[Layout, ...]
    uid: Literal["whole", "to_first_dot"] = "whole"
    """How much of an object's uid the names of its files hold."""
    license: str = ""
    """Of its output or weights, where it restricts use."""


_MIRRORED_Z = Axes("x", "y", "-z")
_MESHES = (".glb", ".obj", ".ply")


def _named(*suffixes: str, folder: str = "") -> tuple[str, ...]:
    return tuple(f"{folder}{{uid}}{suffix}" for suffix in suffixes)


_SYSTEMS = (
    System(
        "splatter-image",
        "Splatter Image",
        (
            Layout("splats", ("{uid}/mesh.ply", "{uid}.ply"), note="its frame is not documented: align the yaw"),
            Layout("pictures", ("*_{uid}/*.png",), note="seen by the cameras of its own data set"),
        ),
    ),
    System(
        "openlrm",
        "OpenLRM",
        (Layout("mesh", ("meshes/*/{uid}.ply", "{uid}.ply")), Layout("pictures", ("videos/*/{uid}.mov", "{uid}.mov"))),
        uid="to_first_dot",
    ),
    System(
        "one-2-3-45",
        "One-2-3-45",
        (
            Layout("mesh", ("{uid}/mesh.ply", "{uid}.ply")),
            Layout(
                "mesh",
                ("{uid}/mesh.glb", "{uid}/mesh.obj", "{uid}.glb", "{uid}.obj"),
                Axes("x", "z", "y"),
                gltf_colors="srgb",
                note="its converted files are mirror images of its mesh.ply, which is undone; so is the second gamma",
            ),
        ),
    ),
    System(
        "lara",
        "LaRa",
        (
            Layout(
                "mesh",
                _named(".obj"),
                FirstCamera(20.0),
                note="the frame of the first camera: taken 20 degrees above the front, or as mapping.csv says",
            ),
            Layout("pictures", _named(".mp4")),
        ),
        uid="to_first_dot",
    ),
    System(
        "crm",
        "CRM",
        (
            Layout("mesh", ("{uid}/output3d.zip", "{uid}output3d.zip", "{uid}.zip"), GLTF),
            Layout("mesh", ("{uid}/*.glb", "{uid}.glb", "{uid}.obj"), GLTF, note="its GLB is rescaled: sizes are lost"),
        ),
    ),
    System(
        "lgm",
        "LGM",
        (
            Layout("splats", ("{uid}.ply", "{uid}/*.ply"), GLTF),
            Layout("mesh", _named(".glb"), GLTF),
            Layout("pictures", _named(".mp4")),
        ),
    ),
    System(
        "shap-e",
        "Shap-E",
        (Layout("mesh", ("{uid}/example_mesh_0.ply", "{uid}/example_mesh_0.obj", "{uid}.ply", "{uid}.obj")),),
    ),
    System("ln3diff", "LN3Diff", (Layout("mesh", ("mesh/{uid}.ply", "{uid}.ply"), units=1.0),)),
    System(
        "gaussiananything",
        "GaussianAnything",
        (
            Layout("mesh", ("{uid}/*-mesh_raw.obj",), units=1.0),
            Layout(
                "mesh",
                ("{uid}/*-mesh.obj", "{uid}.obj"),
                Axes("-x", "z", "y"),
                units=1.0,
                note="its -mesh.obj is turned about two axes beside the unturned files of its folder",
            ),
        ),
        license="S-Lab License 1.0, non-commercial",
    ),
    System(
        "instantmesh",
        "InstantMesh",
        (
            Layout("mesh", ("meshes/{uid}.obj", "{uid}.obj"), Axes("y", "-x", "z"), writer="textured"),
            Layout(
                "mesh",
                ("meshes/{uid}.obj", "{uid}.obj"),
                Axes("y", "-x", "-z"),
                writer="vertex_colors",
                note="its files with vertex colors are mirror images of its textured ones, which is undone",
            ),
            Layout("pictures", ("videos/{uid}.mp4", "{uid}.mp4")),
        ),
    ),
    System(
        "trellis",
        "TRELLIS",
        (
            Layout("mesh", ("{uid}/sample.glb", "{uid}/*.glb", "{uid}.glb"), GLTF, units=0.9),
            Layout(
                "splats",
                ("{uid}/sample.ply", "{uid}/*.ply", "{uid}.ply"),
                Axes("x", "z", "-y"),
                units=0.9,
                splats=SplatSettings(kernel=0.1, mode="antialiased"),
                note="its PLY is turned by half a circle about x against its GLB",
            ),
        ),
    ),
    System(
        "hunyuan3d-2.1",
        "Hunyuan3D-2.1",
        (
            Layout(
                "mesh",
                ("{uid}/*_textured.glb", "{uid}_textured.glb", "{uid}/*.glb", "{uid}.glb", "{uid}.obj"),
                GLTF,
                units=0.45 / 1.01,
            ),
        ),
        license="Tencent Hunyuan 3D community license: read it before use",
    ),
    System(
        "sar3d",
        "SAR3D (released)",
        (
            Layout("mesh", _named(".ply", folder="mesh/") + _named(".ply"), units=1.0),
            Layout(
                "mesh",
                ("{uid}/mesh.obj", "{uid}.obj"),
                _MIRRORED_Z,
                note="its FlexiCubes export is a mirror image, which is undone",
            ),
        ),
        license="S-Lab License 1.0, non-commercial",
    ),
    System("gltf", "files with y up and the front at +z", (Layout("mesh", _named(*_MESHES), GLTF),)),
    System("z-up", "files with z up and the front at -y", (Layout("mesh", _named(*_MESHES)),)),
)

SYSTEMS: dict[str, System] = {system.name: system for system in _SYSTEMS}
"""By name."""


def system_named(name: str) -> System:
    """One system. Raises `UserError` for a name that is not in `SYSTEMS`."""
    if name not in SYSTEMS:
        raise UserError(
            f"there is no importer {name!r}: choose from {', '.join(SYSTEMS)}; gltf and z-up read any mesh in such a frame"
        )
    return SYSTEMS[name]


def patterns_of(system: System) -> Sequence[str]:
    """All patterns of a system, for a sentence."""
    return [pattern for layout in system.layouts for pattern in layout.patterns]
