"""From a glTF document to a `Scene`: every shown mesh, posed and placed."""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.assemble import Piece, assemble, check_totals
from sar3d.meshes.gltf.document import Document, Json, array, as_object, numbers, optional_index
from sar3d.meshes.gltf.materials import SurfaceShading, read_surface
from sar3d.meshes.gltf.nodes import Hierarchy, instance_matrices, read_hierarchy
from sar3d.meshes.gltf.primitives import Geometry, read_geometry
from sar3d.meshes.gltf.skins import apply_skin, joint_matrices
from sar3d.meshes.scene import Scene
from sar3d.meshes.transform import cofactors

_IDENTITY = np.eye(4)


class _Placements:
    """Where each (mesh, morph weights) stands: placed rigidly, or bent by a skin."""

    def __init__(self) -> None:
        self.rigid: dict[tuple[int, tuple[float, ...]], list[NDArray[np.float64]]] = {}
        self.skinned: dict[tuple[int, tuple[float, ...]], list[tuple[int, NDArray[np.float64]]]] = {}

    def meshes(self) -> Iterator[tuple[int, tuple[float, ...]]]:
        return iter(dict.fromkeys(itertools.chain(self.rigid, self.skinned)))


def read_gltf(document: Document) -> Scene:
    """Raises ObjectError with a kind for everything that can be wrong with the file."""
    hierarchy = read_hierarchy(document)
    placements = _placements(document, hierarchy)
    pieces: list[Piece] = []
    triangles = vertices = 0
    for mesh, weights in placements.meshes():
        rigid = placements.rigid.get((mesh, weights), [])
        skinned = placements.skinned.get((mesh, weights), [])
        copies = sum(map(len, rigid)) + len(skinned)
        for geometry, surface in _geometries(document, mesh, list(weights)):
            # Before anything is copied: a small file can ask for millions of instances.
            triangles += copies * len(geometry.faces)
            vertices += copies * len(geometry.positions)
            check_totals(triangles, vertices, document.limits)
            if rigid:
                pieces.append(_placed(geometry, surface, np.concatenate(rigid)))
            pieces.extend(_posed(document, geometry, surface, hierarchy, *where) for where in skinned)
    return assemble(pieces, document.warnings)


def _placements(document: Document, hierarchy: Hierarchy) -> _Placements:
    placements = _Placements()
    instances = 0
    for index in hierarchy.visible:
        node = document.item("nodes", index)
        mesh = optional_index(node, "mesh")
        if mesh is None:
            continue
        key = (mesh, tuple(_weights(document, node, mesh)))
        matrices = instance_matrices(document, node)
        world = hierarchy.globals[index]
        placed = world[None] if matrices is None else world @ matrices
        instances += len(placed)
        if instances > document.limits.nodes:
            raise ObjectError("too_many_nodes", f"it shows more than {document.limits.nodes} nodes and instances")
        skin = optional_index(node, "skin")
        if skin is None:
            placements.rigid.setdefault(key, []).append(placed)
        else:
            placements.skinned.setdefault(key, []).append((skin, placed))
    return placements


def _weights(document: Document, node: Json, mesh: int) -> list[float]:
    owner = node if "weights" in node else document.item("meshes", mesh)
    return numbers(owner, "weights", [0.0] * len(array(owner, "weights")))


def _geometries(document: Document, mesh: int, weights: list[float]) -> Iterator[tuple[Geometry, SurfaceShading]]:
    for index, entry in enumerate(array(document.item("meshes", mesh), "primitives")):
        primitive = as_object(entry, f"meshes[{mesh}].primitives[{index}]")
        surface = read_surface(document, optional_index(primitive, "material"))
        geometry = read_geometry(document, primitive, surface, weights)
        if geometry is not None:
            yield geometry, surface


def _placed(geometry: Geometry, surface: SurfaceShading, matrices: NDArray[np.float64]) -> Piece:
    """All rigid copies of a geometry at once; `matrices` (K, 4, 4)."""
    material = surface.material
    if len(matrices) == 1 and np.array_equal(matrices[0], _IDENTITY):
        return Piece(geometry.positions, geometry.normals, geometry.faces, material, geometry.uvs, geometry.colors)
    copies, count = len(matrices), len(geometry.positions)
    linear, shift = matrices[:, :3, :3], matrices[:, None, :3, 3]
    mirrored = np.linalg.det(linear) < 0
    turn = cofactors(linear) * np.where(mirrored, -1.0, 1.0)[:, None, None]
    faces = np.broadcast_to(geometry.faces, (copies, *geometry.faces.shape)).copy()
    faces[mirrored] = faces[mirrored][:, :, ::-1]
    faces += (np.arange(copies, dtype=np.uint32) * np.uint32(count))[:, None, None]
    return Piece(
        positions=(geometry.positions.astype(np.float64) @ linear.transpose(0, 2, 1) + shift).reshape(-1, 3),
        normals=(geometry.normals.astype(np.float64) @ turn.transpose(0, 2, 1)).reshape(-1, 3),
        faces=faces.reshape(-1, 3),
        material=material,
        uvs=None if geometry.uvs is None else np.tile(geometry.uvs, (copies, 1)),
        colors=None if geometry.colors is None else np.tile(geometry.colors, (copies, 1)),
    )


def _posed(
    document: Document,
    geometry: Geometry,
    surface: SurfaceShading,
    hierarchy: Hierarchy,
    skin: int,
    placed: NDArray[np.float64],
) -> Piece:
    if geometry.binding is None:  # a skin without joints to follow moves nothing
        return _placed(geometry, surface, placed)
    matrices = joint_matrices(document, skin, hierarchy)
    positions, normals, mirrored = apply_skin(geometry.positions, geometry.normals, geometry.binding, matrices)
    faces = geometry.faces[:, ::-1] if mirrored else geometry.faces
    return Piece(positions, normals, faces, surface.material, geometry.uvs, geometry.colors)
