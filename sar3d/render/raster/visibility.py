"""Which face each pixel shows: scanlines and a depth buffer, without gradients.

A pixel shows what the ray through its center meets first; faces are seen from both sides. Where two faces share an edge,
a center on it belongs to exactly one of them (left and upper edges belong to a face), because both compute the same
crossing of edge and row. Depths are compared as integers together with the faces' numbers, so the result depends on no
order of execution: it is the same to the bit on every run.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sar3d.render.raster.projection import NEAR

CANDIDATES = 1 << 21
"""Faces, rows of faces and pixels of rows that are looked at at a time, each: it bounds the memory."""

_NOTHING = torch.iinfo(torch.int64).max
_NUMBER = (1 << 32) - 1
"""Bits of a key that hold the face's number; the depth's are above."""

_Point = tuple[Tensor, Tensor, Tensor]
"""x, y and inverse depth, each (K,)."""


@torch.no_grad()
def visible_faces(
    screen: Float[Tensor, "V N 3"], faces: Int[Tensor, "F 3"], height: int, width: int
) -> Int[Tensor, "V H W"]:
    """The number of the face that each pixel shows, -1 for none.

    Of faces at the same depth the one with the lower number is shown. A face with a corner that is not in front of the
    camera is not drawn, nor is one without area.

    Args:
        screen: from `projection.to_screen`.
    """
    pixels = height * width
    buffer = torch.full((len(screen) * pixels,), _NOTHING, dtype=torch.int64, device=screen.device)
    for first, group in _view_groups(screen, len(faces)):
        x, y, z = group.reshape(-1, 3).unbind(-1)
        own = torch.arange(len(group), device=faces.device) * group.shape[1]
        corners = (faces + own[:, None, None]).view(-1, 3)
        # Half a pixel less, and centers are whole numbers.
        at = [(_take(x, c) - 0.5, _take(y, c) - 0.5, _take(z, c)) for c in corners.unbind(-1)]
        kept, top, counts = _rows(at, height, width)
        ordered = _downwards([(_take(a, kept), _take(b, kept), 1 / _take(c, kept)) for a, b, c in at])
        view, number = first + kept // len(faces), kept % len(faces)
        for owner, offset in _expanded(counts):
            row = _take(top, owner) + offset
            start_of_row = _take(view, owner) * pixels + row * width
            _fill(buffer, _span(ordered, owner, row), start_of_row, _take(number, owner), width)
    return torch.where(buffer == _NOTHING, -1, buffer & _NUMBER).view(-1, height, width)


def _take(values: Tensor, rows: Int[Tensor, "K"]) -> Tensor:
    """`values[rows]`, several times faster on a CPU."""
    return values.index_select(0, rows)


def _view_groups(screen: Float[Tensor, "V N 3"], faces: int) -> Iterator[tuple[int, Float[Tensor, "G N 3"]]]:
    """As many views as make `CANDIDATES` faces, and the number of the first of them."""
    size = max(1, CANDIDATES // max(faces, 1))
    for first in range(0, len(screen) if faces else 0, size):
        yield first, screen[first : first + size]


def _rows(at: list[_Point], height: int, width: int) -> tuple[Int[Tensor, "K"], Int[Tensor, "K"], Int[Tensor, "K"]]:
    """Faces (x, y, z of three corners) that may cover a center: their numbers, first row, and how many rows."""
    (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = at

    def between(a: Tensor, b: Tensor, c: Tensor, size: int) -> tuple[Tensor, Tensor]:
        low, high = torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c)
        return low.ceil().clamp_(0, size), high.ceil().clamp_(0, size)

    top, bottom = between(y0, y1, y2, height)
    left, right = between(x0, x1, x2, width)
    front = torch.minimum(torch.minimum(z0, z1), z2) > NEAR
    kept = (front & (top < bottom) & (left < right)).nonzero().flatten()
    first = _take(top, kept).long()
    return kept, first, _take(bottom, kept).long() - first


def _downwards(at: list[_Point]) -> list[_Point]:
    """Three corners in the order of their y."""

    def ordered(a: _Point, b: _Point) -> tuple[_Point, _Point]:
        swap = a[1] > b[1]
        pairs = [(torch.where(swap, q, p), torch.where(swap, p, q)) for p, q in zip(a, b, strict=True)]
        (x0, x1), (y0, y1), (z0, z1) = pairs
        return (x0, y0, z0), (x1, y1, z1)

    a, b, c = at
    a, b = ordered(a, b)
    b, c = ordered(b, c)
    a, b = ordered(a, b)
    return [a, b, c]


def _expanded(counts: Int[Tensor, "K"]) -> Iterator[tuple[Int[Tensor, "L"], Int[Tensor, "L"]]]:
    """Every item as often as `counts` says: its row and a running number from 0, some `CANDIDATES` at a time."""
    ends = counts.cumsum(0)
    total, first, done = int(ends[-1]) if len(ends) else 0, 0, 0
    while done < total:
        limit = done + CANDIDATES
        last = len(ends) if limit >= total else max(first + 1, int((ends <= limit).sum()))
        owner = torch.arange(first, last, device=ends.device).repeat_interleave(counts[first:last])
        yield owner, torch.arange(done, done + len(owner), device=ends.device) - _take(ends - counts, owner)
        first, done = last, done + len(owner)


def _span(corners: list[_Point], owner: Int[Tensor, "L"], row: Int[Tensor, "L"]) -> tuple[_Point, _Point]:
    """The points at which a row enters and leaves the faces `owner`, whose `corners` stand in the order of their y.

    A row that a face covers crosses the edge between its upper and its lower corner and exactly one of the other two.
    """
    y = row.to(corners[0][1].dtype)
    upper, middle, lower = ([_take(part, owner) for part in corner] for corner in corners)
    above = y < middle[1]
    begin = [torch.where(above, p, q) for p, q in zip(upper, middle, strict=True)]
    end = [torch.where(above, p, q) for p, q in zip(middle, lower, strict=True)]
    crossings = []
    for a, b in ((upper, lower), (begin, end)):
        share = (y - a[1]) / (b[1] - a[1])
        crossings.append((a[0] + share * (b[0] - a[0]), y, a[2] + share * (b[2] - a[2])))
    p, q = crossings
    swap = p[0] > q[0]
    left, right = torch.where(swap, q[0], p[0]), torch.where(swap, p[0], q[0])
    return (left, y, torch.where(swap, q[2], p[2])), (right, y, torch.where(swap, p[2], q[2]))


def _fill(
    buffer: Int[Tensor, "pixels"],
    span: tuple[_Point, _Point],
    start: Int[Tensor, "L"],
    number: Int[Tensor, "L"],
    width: int,
) -> None:
    """Enter the faces `number` on the centers of a span in the row that begins at pixel `start`."""
    (left, _, at_left), (right, _, at_right) = span
    first = left.ceil().clamp(0, width)
    counts = (right.ceil().clamp(0, width) - first).long()
    slope = (at_right - at_left) / (right - left).clamp_min(1e-20)
    for owner, offset in _expanded(counts):
        column = _take(first, owner) + offset
        depth = 1 / (_take(at_left, owner) + _take(slope, owner) * (column - _take(left, owner)))
        key = depth.float().view(torch.int32).long() << 32 | _take(number, owner)
        buffer.scatter_reduce_(0, _take(start, owner) + column.long(), key, "amin")
