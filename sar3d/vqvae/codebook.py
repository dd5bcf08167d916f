"""Search in a codebook of unit vectors, and how its codes come from data."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

_CHUNK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Similarities held at once: 16 MB stay in a CPU's cache, 256 MB keep a GPU busy."""

_BLOCK = 128
"""Codes in a block of the two-step maximum."""

_FIXED_POINT = float(1 << 32)
"""Sums of unit vectors are taken in integers of this resolution, so that no order of addition changes them."""

_RIDGE = 1e-3
"""Pull towards zero, in units of the mean square of the inputs; few latents do not determine a convolution."""


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Float32 arithmetic whatever autocast and the TF32 switches say: rounded similarities would choose other codes."""
    backends = (
        torch.backends.cuda.matmul,
        torch.backends.cudnn.conv,  # type: ignore[attr-defined]
        torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
        torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
    )
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


@torch.no_grad()
def nearest(
    queries: Float[Tensor, "N D"], codes: Float[Tensor, "K D"], elements: int | None = None
) -> Int[Tensor, " N"]:
    """Index of the code with the largest inner product with each query; the first of equals (published.md, quantizer).

    Works through the queries in chunks of at most `elements` similarities, so the (N, K) matrix never exists.
    """
    count, block = len(codes), math.gcd(len(codes), _BLOCK)
    rows = max(1, (elements or _CHUNK_ELEMENTS.get(queries.device.type, 1 << 22)) // count)
    transposed = codes.t().contiguous()
    similarity = queries.new_empty(min(rows, len(queries)), count)
    found = torch.empty(len(queries), dtype=torch.long, device=queries.device)
    for start in range(0, len(queries), rows):
        chunk = queries[start : start + rows]
        torch.mm(chunk, transposed, out=similarity[: len(chunk)])
        # argmax over a long row is scalar code on a CPU; amax is vectorized and leaves 1/block of the row to argmax.
        blocks = similarity[: len(chunk)].view(len(chunk), count // block, block)
        best = blocks.amax(2).argmax(1)
        inner = blocks[torch.arange(len(chunk), device=queries.device), best].argmax(1)
        found[start : start + rows] = best * block + inner
    return found


@torch.no_grad()
def spherical_kmeans(
    vectors: Float[Tensor, "N D"], centers: Float[Tensor, "K D"], iterations: int
) -> Float[Tensor, "K D"]:
    """Lloyd's algorithm on the sphere: unit centers that follow the unit `vectors` nearest to them.

    A center that no vector is nearest to keeps its place. The result does not depend on the order of additions, so
    equal inputs give equal centers on every run.
    """
    fixed = (vectors.double() * _FIXED_POINT).round().long()
    for _ in range(iterations):
        owner = nearest(vectors, centers)
        sums = torch.zeros(centers.shape, dtype=torch.long, device=centers.device).index_add_(0, owner, fixed)
        means = sums.double() / _FIXED_POINT
        moved = means.norm(dim=1, keepdim=True) > 1e-6
        centers = torch.where(moved, F.normalize(means, dim=1).to(centers.dtype), centers)
    return centers


def choose(vectors: Float[Tensor, "N D"], count: int, generator: torch.Generator) -> Float[Tensor, "M D"]:
    """min(count, N) of the vectors, drawn without replacement; equal on every device for equal generators."""
    order = torch.randperm(len(vectors), generator=generator, device=generator.device)[:count]
    return vectors[order.to(vectors.device)]


def normal_equations(
    planes: Float[Tensor, "BP D G G"], targets: Float[Tensor, "BP D G G"]
) -> tuple[Float[Tensor, "M M"], Float[Tensor, "M D"]]:
    """The float64 system AᵀA x = Aᵀb of the 3x3 convolution with bias (M = 9 D + 1) that maps planes to targets."""
    patches = rearrange(F.unfold(planes, 3, padding=1), "r m l -> (r l) m").double()
    design = torch.cat([patches, patches.new_ones(len(patches), 1)], 1)
    return design.t() @ design, design.t() @ rearrange(targets, "r d h w -> (r h w) d").double()


def solve_convolution(
    systems: Sequence[tuple[Float[Tensor, "M M"], Float[Tensor, "M D"]]],
) -> tuple[Float[Tensor, "D D 3 3"], Float[Tensor, " D"]]:
    """Weight and bias of the convolution that serves all the systems best, with a slight pull towards zero."""
    square = torch.stack([system[0] for system in systems]).sum(0)
    right = torch.stack([system[1] for system in systems]).sum(0)
    pull = torch.eye(len(square), dtype=square.dtype, device=square.device) * (_RIDGE * square.diagonal().mean())
    solution = torch.linalg.solve(square + pull, right).float()
    return rearrange(solution[:-1], "(i y x) o -> o i y x", y=3, x=3), solution[-1]
