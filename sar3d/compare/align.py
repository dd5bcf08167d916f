"""How an object must be turned about the vertical axis to stand as the truth does, and whether it is its mirror image.

Both are drawn from a ring of cameras. An object turned by the angle between two cameras shows what its neighbour saw; a
mirrored one shows the mirrored pictures in reverse order. So one ring of pictures answers for all turns and both hands.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from sar3d.compare.draw import Drawing, draw, ring
from sar3d.compare.place import Placed, fitted, turned
from sar3d.render import Renderer
from sar3d.splats import SplatSettings

STEPS = 24
"""Turns that are tried."""
RESOLUTION = 64
_RADIUS, _ELEVATION = 2.2, 20.0
"""Cameras that see an object whole however it is turned, and from above, where front and back differ in outline."""
_MARGIN = 0.01
"""By how much a mirrored pose must be better to be called so: an object with a plane of symmetry is its mirror image."""

_ROUNDS = 2
"""Turns after which an object stays as it is."""

Embed = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
"""Pictures (V, H, W, 3) to unit vectors (V, C)."""


@dataclass(frozen=True)
class Alignment:
    """The best turn of an object, never mirrored, and what the best mirrored one would be."""

    yaw: float
    """Degrees, counter-clockwise seen from above; 0 where none is better."""
    iou: float
    """Of the silhouettes at this turn, the mean over the ring."""
    score: float
    """Outline and colors, in [0, 1]."""
    declared_iou: float
    """Of the silhouettes as the object was placed."""
    mirrored: bool
    """Whether a mirrored pose fits better: a warning. The object is never mirrored to fit."""
    mirrored_iou: float
    """Of the silhouettes at the best mirrored pose."""


def ring_of(placed: Placed, renderer: Renderer, splats: SplatSettings = SplatSettings()) -> Drawing:  # noqa: B008  frozen
    """The pictures that `align_yaw` compares. Raises `ObjectError` as `draw`."""
    poses, lenses = ring(STEPS, _RADIUS, _ELEVATION)
    return draw(placed, poses, lenses, RESOLUTION, renderer, splats)


def align_yaw(made: Drawing, truth: Drawing, embed: Embed | None = None) -> Alignment:
    """The turn that makes an object stand as its truth.

    Args:
        made, truth: of `ring_of`.
        embed: an image encoder's vectors; their similarity then counts as much as the colors.
    """
    straight = _scores(made, truth, embed)
    flipped = _scores(_mirrored(made), truth, embed)
    best, hand = int(straight.score.argmax()), int(flipped.score.argmax())
    if straight.score[best] - straight.score[0] < 1e-9:
        best = 0
    turn = best * 360 / STEPS
    return Alignment(
        yaw=180 - (180 - turn) % 360,
        iou=float(straight.iou[best]),
        score=float(straight.score[best]),
        declared_iou=float(straight.iou[0]),
        mirrored=bool(flipped.score[hand] > straight.score[best] + _MARGIN),
        mirrored_iou=float(flipped.iou[hand]),
    )


def align(
    placed: Placed,
    truth: Drawing,
    renderer: Renderer,
    splats: SplatSettings = SplatSettings(),  # noqa: B008  frozen
    embed: Embed | None = None,
) -> tuple[Placed, Alignment]:
    """An object turned to stand as its truth, its box fitted again, and how well it stands then.

    Args:
        truth: of `ring_of`, of the true object.

    Raises:
        ObjectError: what renderers raise.
    """
    first = found = align_yaw(ring_of(placed, renderer, splats), truth, embed)
    upright, yaw = placed, 0.0
    # A box that was fitted to a turned object has another middle and size than the truth's: look again once it is turned.
    for _ in range(_ROUNDS):
        if found.yaw == 0:
            break
        yaw += found.yaw
        upright = fitted(turned(placed, yaw))
        found = align_yaw(ring_of(upright, renderer, splats), truth, embed)
    return upright, replace(found, yaw=180 - (180 - yaw) % 360, declared_iou=first.declared_iou)


@dataclass(frozen=True)
class _Scores:
    """By turn, (STEPS,)."""

    iou: NDArray[np.float64]
    score: NDArray[np.float64]


def _scores(made: Drawing, truth: Drawing, embed: Embed | None) -> _Scores:
    vectors = None if embed is None else (embed(made.rgb), embed(truth.rgb))
    covered, true = made.alpha > 127, truth.alpha > 127
    ious, scores = np.zeros(STEPS), np.zeros(STEPS)
    for step in range(STEPS):
        # Turned by one step, the object shows to each camera what it showed to the one before.
        seen = (np.arange(STEPS) - step) % STEPS
        common, either = covered[seen] & true, covered[seen] | true
        ious[step] = np.mean(common.sum((1, 2)) / np.maximum(either.sum((1, 2)), 1))
        apart = np.abs(made.rgb[seen].astype(np.float32) - truth.rgb).mean(-1) / 255
        likeness = [1 - float(apart[either].mean()) if either.any() else 0.0]
        if vectors is not None:
            likeness.append(float((vectors[0][seen] * vectors[1]).sum(-1).mean()))
        scores[step] = (ious[step] + np.mean(likeness)) / 2
    return _Scores(ious, scores)


def _mirrored(drawing: Drawing) -> Drawing:
    """The ring of the object's mirror image in the plane x = 0."""
    order = -np.arange(STEPS) % STEPS
    return Drawing(drawing.rgb[order, :, ::-1], drawing.alpha[order, :, ::-1])


def icp(points: NDArray[np.float64], target: NDArray[np.float64], iterations: int = 50) -> NDArray[np.float64]:
    """(4, 4) similarity that moves points (N, 3) onto the nearest of `target` (M, 3), by turns (Besl and McKay 1992,
    Umeyama 1991). It never mirrors. For chamfer distances alone: an object that is drawn stays where it was placed.
    """
    tree, matrix = KDTree(target), np.eye(4)
    for _ in range(iterations):
        here = points @ matrix[:3, :3].T + matrix[:3, 3]
        step = _similarity(here, target[tree.query(here)[1]])
        matrix = step @ matrix
        if np.abs(step - np.eye(4)).max() < 1e-7:
            break
    return matrix


def _similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 4) least-squares similarity of pairs of points (Umeyama 1991, equations 40 to 42)."""
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    a, b = source - middle, target - goal
    left, values, right = np.linalg.svd(b.T @ a / len(a))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = left * signs @ right
    scale = float(values @ signs / np.square(a).sum(axis=1).mean())
    matrix = np.eye(4)
    matrix[:3, :3] = scale * rotation
    matrix[:3, 3] = goal - matrix[:3, :3] @ middle
    return matrix
