"""Skinned vertices in bind pose and morph targets at their default weights (specification, sections 3.7.2-3.7.3)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.gltf.accessors import read_accessor
from sar3d.meshes.gltf.document import Document, Json, array, as_object, indices, integer
from sar3d.meshes.gltf.nodes import Hierarchy
from sar3d.meshes.transform import cofactors


@dataclass(frozen=True)
class Binding:
    """Per vertex: up to 4, 8, ... joints (N, J) and their weights (N, J), which sum to 1."""

    joints: NDArray[np.intp]
    weights: NDArray[np.float64]


def joint_matrices(document: Document, skin_index: int, hierarchy: Hierarchy) -> NDArray[np.float64]:
    """(J, 4, 4): joint global transform x inverse bind matrix. The mesh node's own transform plays no part."""
    skin = document.item("skins", skin_index)
    joints = indices(skin, "joints")
    if not joints or max(joints) >= len(hierarchy.globals):
        raise ObjectError("malformed", f"skins[{skin_index}] has no joints, or joints that are no nodes")
    world = hierarchy.globals[joints]
    if "inverseBindMatrices" not in skin:
        return world
    inverse = read_accessor(document, integer(skin, "inverseBindMatrices"), (16,), scaled=True)
    if len(inverse) < len(joints):
        raise ObjectError("malformed", f"skins[{skin_index}] has {len(joints)} joints, {len(inverse)} bind matrices")
    bind = inverse[: len(joints)].astype(np.float64).reshape(-1, 4, 4).transpose(0, 2, 1)
    if not np.isfinite(bind).all():
        raise ObjectError("non_finite", f"an inverse bind matrix of skins[{skin_index}] is not finite")
    return world @ bind


def read_binding(joints: list[NDArray[np.generic]], weights: list[NDArray[np.float32]]) -> Binding:
    """From the vectors JOINTS_0, JOINTS_1 ... (N, 4 each) and as many WEIGHTS."""
    all_weights = np.concatenate(weights, axis=1).astype(np.float64)
    if not np.isfinite(all_weights).all():
        raise ObjectError("non_finite", "a skin weight is not finite")
    all_weights = np.maximum(all_weights, 0.0)
    all_joints = np.concatenate(joints, axis=1).astype(np.intp)
    total = all_weights.sum(axis=1, keepdims=True)
    # Weights of zero in all follow the first joint, as viewers have it.
    all_weights[total[:, 0] == 0, 0] = 1.0
    return Binding(all_joints, all_weights / np.where(total == 0, 1.0, total))


def apply_skin(
    positions: NDArray[np.floating], normals: NDArray[np.floating], binding: Binding, matrices: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """(positions (N, 3), normals (N, 3) not of unit length, whether the pose mirrors the mesh)."""
    used = binding.weights > 0
    if binding.joints[used].max(initial=0) >= len(matrices):
        raise ObjectError(
            "index_out_of_range",
            f"a vertex follows joint {binding.joints[used].max()} of a skin that has {len(matrices)}",
        )
    joints = np.where(used, binding.joints, 0)
    blended = np.zeros((len(positions), 3, 4))
    for slot in np.flatnonzero(used.any(axis=0)):
        blended += binding.weights[:, slot, None, None] * matrices[joints[:, slot], :3]
    linear = blended[:, :, :3]
    moved = np.einsum("nij,nj->ni", linear, positions) + blended[:, :, 3]
    determinants = np.linalg.det(linear)
    turned = np.einsum("nij,nj->ni", cofactors(linear), normals) * np.where(determinants < 0, -1.0, 1.0)[:, None]
    return moved, turned, bool((determinants < 0).sum() * 2 > len(positions))


def morph(
    document: Document, primitive: Json, weights: list[float], values: NDArray[np.floating], attribute: str
) -> NDArray[np.floating]:
    """`values` (N, 3) of POSITION or NORMAL plus the weighted displacements of the primitive's targets."""
    targets = array(primitive, "targets")
    if len(weights) > len(targets):
        raise ObjectError("malformed", f"a mesh has {len(weights)} morph weights for {len(targets)} targets")
    for weight, target in zip(weights, targets, strict=False):
        accessors = as_object(target, "a morph target")
        if weight != 0.0 and attribute in accessors:
            delta = read_accessor(document, integer(accessors, attribute), (3,), scaled=True)
            if delta.shape != values.shape:
                raise ObjectError("malformed", f"a morph target has {len(delta)} vertices for {len(values)}")
            values = values + weight * delta.astype(np.float64)
    return values
