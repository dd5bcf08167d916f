"""From a decoded view group to the tensors of the multi-scale VQVAE: encoder input and rendering targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sar3d.data.views import Views
from sar3d.geometry import camera_rays, pluecker

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
    """(V, 25) float32: row-major camera-to-world 4x4, then row-major normalised intrinsics 3x3."""


@dataclass(frozen=True)
class Sample:
    """One training sample: encode six views, render them and six others."""

    encoder_input: Tensor
    """(6, 10, H, W) float32, see `encoder_input`."""
    seen: Targets
    """The views that were encoded."""
    novel: Targets
    """The group's other six views."""


def encoder_input(views: Views, indices: Sequence[int] = tuple(range(ENCODER_VIEWS))) -> Tensor:
    """(len(indices), 10, H, W) float32 of the views at positions `indices` of the group (the first 6 by default).

    Channels: 0-2 RGB in [0, 1] less the ImageNet mean, by its deviation; 3-5 Plücker moment o × d; 6-8 unit ray
    direction d; 9 z-depth, 0 = background. This is the published encoder's input, at any resolution.
    """
    chosen = list(indices)
    height, width = views.depth.shape[1:]
    rgb = views.rgb[chosen].astype(np.float32) / np.float32(255)
    rays = pluecker(*camera_rays(views.c2w[chosen], views.intrinsics[chosen], height, width))
    channels = np.empty((len(chosen), 10, height, width), np.float32)
    channels[:, :3] = ((rgb - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)).transpose(0, 3, 1, 2)
    channels[:, 3:9] = rays.transpose(0, 3, 1, 2)
    channels[:, 9] = views.depth[chosen]
    return torch.from_numpy(channels)


def targets(views: Views, indices: Sequence[int]) -> Targets:
    """The targets of the views at positions `indices` of the group, at the stored resolution."""
    chosen = list(indices)
    rgb = torch.from_numpy(views.rgb[chosen]).permute(0, 3, 1, 2).float()
    matrices = (views.c2w[chosen].reshape(-1, 16), views.intrinsics[chosen].reshape(-1, 9))
    return Targets(
        image=rgb / 127.5 - 1,
        depth=torch.from_numpy(views.depth[chosen]),
        mask=torch.from_numpy(views.alpha[chosen]).float() / 255,
        cameras=torch.from_numpy(np.concatenate(matrices, axis=1)),
    )


def chunk_samples(views: Views) -> tuple[Sample, Sample]:
    """The two samples of a group of 12: encode the first half and render the second as novel, then the reverse.

    Raises:
        ValueError: the group does not hold 12 views.
    """
    if len(views.view_ids) != 2 * ENCODER_VIEWS:
        raise ValueError(f"a group of {len(views.view_ids)} views has no two halves of {ENCODER_VIEWS}")
    halves = tuple(range(ENCODER_VIEWS)), tuple(range(ENCODER_VIEWS, 2 * ENCODER_VIEWS))
    inputs = [encoder_input(views, half) for half in halves]
    first, second = (targets(views, half) for half in halves)
    return Sample(inputs[0], first, second), Sample(inputs[1], second, first)
