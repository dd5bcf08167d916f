"""Whole pictures of a mesh: supersampled color and mask, depth, normals."""

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def averaged(picture: Float[Tensor, "V H2 W2 C"], factor: int) -> Float[Tensor, "V H W C"]:
    """The mean of `factor` × `factor` samples for each pixel."""
    return reduce(picture, "v (h a) (w b) c -> v h w c", "mean", a=factor, b=factor)


def face_vectors(vertices: Float[Tensor, "N 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "F 3"]:
    """Outward vectors as long as twice each face's area."""
    a, b, c = (torch.stack([v.index_select(0, i) for v in vertices.unbind(-1)], -1) for i in faces.unbind(-1))
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(vertices: Float[Tensor, "N 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "N 3"]:
    """Unit outward normals: the mean of the faces around each vertex, weighted by their areas; zero where they cancel."""
    vectors = face_vectors(vertices, faces)
    sums = []
    for column in vectors.unbind(-1):
        total = column.new_zeros(len(vertices))
        for corner in faces.unbind(-1):
            total = total.index_add(0, corner, column)
        sums.append(total)
    return F.normalize(torch.stack(sums, -1), dim=-1, eps=1e-20)
