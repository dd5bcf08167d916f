"""Views of colored balls, computed: true pictures, depths and normals for tests of training."""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from sar3d.data.datasets.view_dataset import ViewSample
from sar3d.data.loading.view_tensors import Targets, encoder_channels
from sar3d.geometry import intrinsics, look_at, spherical_to_cartesian
from sar3d.vqvae.cameras import rays_of, z_depth

RADIUS = 0.3


def sample(number: int, side: int = 32, views: int = 12) -> ViewSample:
    """One ball, its color and place by `number`, seen from `views` sides; the first six are encoded."""
    rng = np.random.default_rng(number)
    center, color = rng.uniform(-0.1, 0.1, 3), rng.uniform(0.1, 0.9, 3)
    around = np.arange(views) * 360 / views
    c2w = look_at(spherical_to_cartesian(1.8, np.where(np.arange(views) % 2, 25.0, -10.0), around)).astype(np.float32)
    lens = np.broadcast_to(intrinsics(39.6), (views, 3, 3)).astype(np.float32)
    cameras = torch.from_numpy(np.concatenate([c2w.reshape(-1, 16), lens.reshape(-1, 9)], 1))
    targets = seen(cameras, torch.tensor(center).float(), torch.tensor(color).float(), side)
    rgb = rearrange((targets.image[:6] + 1) * 127.5, "v c h w -> v h w c").round().byte().numpy()
    return ViewSample(
        uid=f"ball{number}",
        sha256="0" * 64,
        group=0,
        encoder_input=encoder_channels(rgb, targets.depth[:6].numpy(), c2w[:6], lens[:6]),
        supervision=targets,
        encoder_ids=tuple(range(6)),
        supervision_ids=tuple(range(views)),
    )


def seen(cameras: Tensor, center: Tensor, color: Tensor, side: int) -> Targets:
    """What cameras (V, 25) see of a ball, shaded by its normals so that views differ."""
    rays = rays_of(cameras, side, side)
    towards = center - rays.origins
    along = (towards * rays.directions).sum(-1)
    gap = along.square() - towards.square().sum(-1) + RADIUS**2
    hit = gap > 0
    distance = along - gap.clamp_min(0).sqrt()
    normal = (rays.origins + distance[..., None] * rays.directions - center) / RADIUS
    shade = 0.6 + 0.4 * normal[..., 2:]
    rgb = torch.where(hit[..., None], color * shade, 1.0)
    depth = torch.where(hit, z_depth(distance, rays.directions, cameras), 0.0)
    return Targets(
        image=rearrange(rgb * 2 - 1, "v (h w) c -> v c h w", h=side),
        depth=rearrange(depth, "v (h w) -> v h w", h=side),
        mask=rearrange(hit.float(), "v (h w) -> v h w", h=side),
        cameras=cameras,
        normal=rearrange(torch.where(hit[..., None], normal, 0.0), "v (h w) c -> v c h w", h=side),
    )
