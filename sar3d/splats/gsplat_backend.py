"""Drawing splats with gsplat on a GPU, where it is installed."""

import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from sar3d.render.base import check_cameras
from sar3d.splats.harmonics import colors_of
from sar3d.splats.render import SplatFrames, SplatSettings, render_splats, to_frames
from sar3d.splats.scene import Splats

Draw = Callable[[Splats, NDArray[np.floating], NDArray[np.floating], SplatSettings], SplatFrames]


def pick_renderer() -> Draw:
    """`render_gsplat` where gsplat is installed and there is a GPU, else `render_splats` on the CPU."""
    if importlib.util.find_spec("gsplat") is not None and torch.cuda.is_available():
        return render_gsplat
    return render_splats


@torch.no_grad()
def render_gsplat(
    splats: Splats, c2w: NDArray[np.floating], intrinsics: NDArray[np.floating], settings: SplatSettings
) -> SplatFrames:
    """See `render_splats`."""
    from gsplat import rasterization

    c2w, intrinsics = check_cameras(c2w, intrinsics)
    everything = np.arange(len(splats.means))
    # Our own colors: gsplat would read the harmonics in the frame of the world.
    colors = torch.stack([colors_of(splats, everything, pose[:3, 3]) for pose in c2w])
    lenses = intrinsics.copy()
    lenses[:, :2] *= settings.resolution
    rgb, alpha, _ = rasterization(
        means=_cuda(splats.means),
        quats=None,
        scales=None,
        covars=_cuda(splats.covariances),
        opacities=_cuda(splats.opacities),
        colors=colors.cuda(),
        viewmats=_cuda(np.linalg.inv(c2w)),
        Ks=_cuda(lenses),
        width=settings.resolution,
        height=settings.resolution,
        eps2d=settings.kernel,
        rasterize_mode=settings.mode,
    )
    return to_frames(rgb, alpha[..., 0])


def _cuda(values: NDArray[np.floating]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float32)).cuda()
