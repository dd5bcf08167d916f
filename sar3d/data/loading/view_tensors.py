"""From a decoded view group to the tensors of the multi-scale VQVAE: encoder input and rendering targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sar3d.data.formats.views import Views
from sar3d.geometry import camera_rays

ENCODER_VIEWS = 6
"""Views that the encoder fuses; its weights fix the number."""

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Targets:
    """What a rendering of V views is compared with."""

    image: Tensor
    """(V, 3, H, W) float32 in [-1, 1], on white."""
    depth: Tensor
    """(V, H, W) float32 z-depth, 0 = background."""
    mask: Tensor
    """(V, H, W) float32 coverage in [0, 1]."""
    cameras: Tensor
    """(V, 25) float32: row-major camera-to-world 4x4, then row-major normalized intrinsics 3x3."""
    normal: Tensor | None = None
    """(V, 3, H, W) float32 unit normals in the world frame, 0 on the background; None where they were not read."""

    def at(self, places: Sequence[int]) -> "Targets":
        """The views at these places."""
        chosen = torch.tensor(list(places))
        return Targets(
            self.image[chosen],
            self.depth[chosen],
            self.mask[chosen],
            self.cameras[chosen],
            None if self.normal is None else self.normal[chosen],
        )

    def first(self, count: int) -> "Targets":
        """The first `count` views."""
        return Targets(
            self.image[:count],
            self.depth[:count],
            self.mask[:count],
            self.cameras[:count],
            None if self.normal is None else self.normal[:count],
        )


def encoder_input(views: Views, indices: Sequence[int] = tuple(range(ENCODER_VIEWS))) -> Float[Tensor, "V 10 H W"]:
    """(len(indices), 10, H, W) float32 of the views at positions `indices` of the group (the first 6 by default).

    Channels: 0-2 RGB in [0, 1] less the ImageNet mean, by its deviation; 3-5 Plücker moment o × d; 6-8 unit ray
    direction d; 9 z-depth, 0 = background. This is the published encoder's input, at any resolution.
    """
    chosen = list(indices)
    return encoder_channels(views.rgb[chosen], views.depth[chosen], views.c2w[chosen], views.intrinsics[chosen])


def encoder_channels(
    rgb: NDArray[np.uint8], depth: NDArray[np.float32], c2w: NDArray[np.float32], intrinsics: NDArray[np.float32]
) -> Float[Tensor, "V 10 H W"]:
    """The encoder input of V views; see `encoder_input` and the fields of `Views` for shapes."""
    channels = np.empty((len(depth), 10, *depth.shape[1:]), np.float32)
    for c in range(3):
        np.multiply(rgb[..., c], np.float32(1 / (255 * _STD[c])), out=channels[:, c])
        channels[:, c] -= np.float32(_MEAN[c] / _STD[c])
    _pluecker_channels(c2w, intrinsics, channels[:, 3:9])
    channels[:, 9] = depth
    return torch.from_numpy(channels)


def _pluecker_channels(c2w: NDArray[np.float32], intrinsics: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Plücker coordinates of the pixels of V cameras into `out` (V, 6, H, W).

    Moment and direction are linear in the direction before the camera, which the views of a lens share: one small
    matrix product a view, a fraction of the time of rays made one by one.
    """
    height, width = out.shape[2:]
    rotation, center = c2w[:, :3, :3].astype(np.float64), c2w[:, :3, 3].astype(np.float64)
    moment = np.cross(center[:, :, None], rotation, axis=1)
    rows = np.concatenate([moment, rotation], axis=1).astype(np.float32)
    for view, lens in enumerate(intrinsics):
        np.matmul(rows[view], _unit_directions(lens.tobytes(), height, width), out=out[view].reshape(6, -1))


@lru_cache(maxsize=16)
def _unit_directions(intrinsics: bytes, height: int, width: int) -> NDArray[np.float32]:
    """(3, H·W) directions of the pixels' rays before the camera; the matrix is 9 float32."""
    lens = np.frombuffer(intrinsics, np.float32).reshape(3, 3)
    _, directions = camera_rays(np.eye(4), lens, height, width)
    return np.ascontiguousarray(directions.reshape(-1, 3).T, np.float32)


def targets(views: Views, indices: Sequence[int], normals: bool = True) -> Targets:
    """The targets of the views at positions `indices` of the group, at the stored resolution."""
    chosen = list(indices)
    return view_targets(
        views.rgb[chosen],
        views.alpha[chosen],
        views.depth[chosen],
        np.ascontiguousarray(np.moveaxis(views.normal[chosen], -1, 1)) if normals else None,
        views.c2w[chosen],
        views.intrinsics[chosen],
    )


def view_targets(
    rgb: NDArray[np.uint8],
    alpha: NDArray[np.uint8],
    depth: NDArray[np.float32],
    normal: NDArray[np.float32] | None,
    c2w: NDArray[np.float32],
    intrinsics: NDArray[np.float32],
) -> Targets:
    """The targets of V views; `normal` is (V, 3, H, W), the rest as in `Views`."""
    matrices = (c2w.reshape(-1, 16), intrinsics.reshape(-1, 9))
    image = np.empty((len(rgb), 3, *rgb.shape[1:3]), np.float32)
    for out, pixels in zip(image, rgb, strict=True):
        for c in range(3):
            np.divide(pixels[..., c], np.float32(127.5), out=out[c])
    image -= np.float32(1)
    return Targets(
        image=torch.from_numpy(image),
        depth=torch.from_numpy(depth),
        mask=torch.from_numpy(alpha / np.float32(255)),
        cameras=torch.from_numpy(np.concatenate(matrices, axis=1)),
        normal=None if normal is None else torch.from_numpy(normal),
    )


def input_pictures(channels: Float[Tensor, "V 10 H W"]) -> Float[Tensor, "V 3 H W"]:
    """The colors in [0, 1] of an encoder input."""
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
    return channels[:, :3] * deviation + mean
