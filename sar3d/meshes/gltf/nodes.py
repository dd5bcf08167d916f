"""The node hierarchy: global transforms and which nodes the file shows (glTF 2.0 specification, section 3.5)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.gltf.accessors import read_accessor
from sar3d.meshes.gltf.document import (
    Document,
    Json,
    array,
    as_object,
    extension,
    indices,
    integer,
    numbers,
    optional_index,
)

_IDENTITY = np.eye(4).flatten().tolist()


@dataclass(frozen=True)
class Hierarchy:
    """`globals` (N, 4, 4) float64 takes each node's coordinates to the scene's; `visible` lists the nodes shown."""

    globals: NDArray[np.float64]
    visible: list[int]


def read_hierarchy(document: Document) -> Hierarchy:
    """Iterative, so depth is bounded by memory only.

    Shown is the default scene, else the first scene, else (a file without scenes) everything.
    Raises ObjectError: `node_cycle`, `malformed` (a node with two parents), `too_many_nodes`, `non_finite`.
    """
    nodes = [as_object(node, f"nodes[{i}]") for i, node in enumerate(array(document.json, "nodes"))]
    if len(nodes) > document.limits.nodes:
        raise ObjectError("too_many_nodes", f"it has {len(nodes)} nodes, more than {document.limits.nodes}")
    if not nodes:
        return Hierarchy(np.zeros((0, 4, 4)), _roots(document, np.zeros(0, np.intp)))
    children = [indices(node, "children") for node in nodes]
    levels, parents = _levels(children)
    world = _local_matrices(nodes)
    for level in levels[1:]:
        world[level] = world[parents[level]] @ world[level]
    if not np.isfinite(world).all():
        raise ObjectError("non_finite", "the transform of a node is not finite")
    return Hierarchy(world, _descend(_roots(document, levels[0]), children))


def instance_matrices(document: Document, node: Json) -> NDArray[np.float64] | None:
    """(K, 4, 4) transforms of EXT_mesh_gpu_instancing, within the node's own; None without the extension."""
    instancing = extension(node, "EXT_mesh_gpu_instancing")
    if instancing is None:
        return None
    attributes = as_object(instancing.get("attributes"), "attributes")
    parts = {
        name: read_accessor(document, integer(attributes, name), (width,), scaled=True).astype(np.float64)
        for name, width in (("TRANSLATION", 3), ("ROTATION", 4), ("SCALE", 3))
        if name in attributes
    }
    counts = {len(values) for values in parts.values()}
    if len(counts) != 1:
        raise ObjectError("malformed", "the attributes of EXT_mesh_gpu_instancing differ in length")
    count = counts.pop()
    if count > document.limits.nodes:
        raise ObjectError("too_many_nodes", f"a node has {count} instances, more than {document.limits.nodes}")
    return _compose(
        parts.get("TRANSLATION", np.zeros((count, 3))),
        parts.get("ROTATION", np.tile([0.0, 0.0, 0.0, 1.0], (count, 1))),
        parts.get("SCALE", np.ones((count, 3))),
    )


def _levels(children: list[list[int]]) -> tuple[list[NDArray[np.intp]], NDArray[np.intp]]:
    """Nodes by depth, roots first, and each node's parent (-1 for roots)."""
    parents = np.full(len(children), -1, np.intp)
    for node, members in enumerate(children):
        for child in members:
            if child >= len(children):
                raise ObjectError(
                    "malformed", f"nodes[{node}] has the child {child}, the file has {len(children)} nodes"
                )
            if parents[child] >= 0:
                raise ObjectError("malformed", f"nodes[{child}] has more than one parent")
            parents[child] = node
    levels = [np.flatnonzero(parents < 0)]
    while len(levels[-1]):
        levels.append(np.array([child for node in levels[-1] for child in children[node]], np.intp))
    if sum(map(len, levels)) != len(children):
        raise ObjectError("node_cycle", "a node of the scene graph is its own ancestor")
    return levels, parents


def _roots(document: Document, parentless: NDArray[np.intp]) -> list[int]:
    scenes = array(document.json, "scenes")
    if not scenes:
        return parentless.tolist()
    default = optional_index(document.json, "scene")
    roots = indices(document.item("scenes", 0 if default is None else default), "nodes")
    for root in roots:
        document.item("nodes", root)
    return roots


def _descend(roots: list[int], children: list[list[int]]) -> list[int]:
    # A scene that lists both a node and its descendant shows the latter once.
    seen = dict.fromkeys(roots)
    stack = list(roots)
    while stack:
        for child in children[stack.pop()]:
            if child not in seen:
                seen[child] = None
                stack.append(child)
    return list(seen)


def _local_matrices(nodes: list[Json]) -> NDArray[np.float64]:
    """(N, 4, 4)"""
    translation = [numbers(node, "translation", (0.0, 0.0, 0.0)) for node in nodes]
    rotation = [numbers(node, "rotation", (0.0, 0.0, 0.0, 1.0)) for node in nodes]
    scale = [numbers(node, "scale", (1.0, 1.0, 1.0)) for node in nodes]
    local = _compose(*(np.array(part, np.float64).reshape(len(nodes), -1) for part in (translation, rotation, scale)))
    given = [i for i, node in enumerate(nodes) if "matrix" in node]
    if given:
        flat = np.array([numbers(nodes[i], "matrix", _IDENTITY) for i in given])
        local[given] = flat.reshape(-1, 4, 4).transpose(0, 2, 1)  # files store columns
    return local


def _compose(
    translation: NDArray[np.float64], rotation: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N, 4, 4) of translation @ rotation @ scale; quaternions (x, y, z, w) need not be of unit length."""
    length = np.linalg.norm(rotation, axis=1, keepdims=True)
    if not (length > 0).all():
        raise ObjectError("malformed", "the rotation of a node is a quaternion of length zero")
    x, y, z, w = (rotation / length).T
    matrices = np.zeros((len(translation), 4, 4))
    matrices[:, 0, :3] = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], axis=1)
    matrices[:, 1, :3] = np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], axis=1)
    matrices[:, 2, :3] = np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], axis=1)
    matrices[:, :3, :3] *= scale[:, None, :]
    matrices[:, :3, 3] = translation
    matrices[:, 3, 3] = 1.0
    return matrices
