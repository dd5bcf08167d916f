"""Losses that configurations name setting by setting: as released, and of short runs."""

from sar3d.tasks.flexicubes.config import MeshLossConfig
from sar3d.tasks.vqvae.config import LossConfig

LOSS_PRESETS: dict[str, LossConfig] = {
    "default": LossConfig(),
    "published": LossConfig(depth_measure="ray", depth_mean="composited", depth_zero_above=0.2),
    "tiny": LossConfig(
        rgb_l1=1.0, rgb_l2=2.0, lpips=0.0, depth=0.3, depth_kind="l1", mask=0.5, adversarial=0.0, discriminator=0.0
    ),
}
PUBLISHED_MESH_LOSS = MeshLossConfig(
    color_silhouettes=False,
    lpips_start=100,
    mask=1.0,
    depth=0.5,
    depth_kind="ssi",
    depth_zero_above=0.2,
    normal=1.0,
    normal_kind="published",
    missing=0.0,
    adversarial=0.025 * 0.025,
)
