"""Training the VQVAE: what one step computes (paper section 3.1; published.md, training)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sar3d.data.datasets.view_dataset import ViewSample
from sar3d.data.loading.view_tensors import Targets
from sar3d.errors import UserError
from sar3d.hub import save_pretrained
from sar3d.metrics.lpips import PerceptualLoss, perceptual_loss
from sar3d.seeds import SampleKey
from sar3d.tasks.vqvae.config import VQVAETaskConfig
from sar3d.tasks.vqvae.discriminator import PatchDiscriminator, discriminator_loss, generator_loss
from sar3d.tasks.vqvae.evaluate import ReconstructionSets, draw, evaluate
from sar3d.tasks.vqvae.losses import Pixels, adversarial_weight, ray_pixels, reconstruction_losses
from sar3d.tasks.vqvae.patches import bounding_boxes, foreground_rays, patch_boxes, patch_pixels
from sar3d.training.task import Losses, Moment, Sync, Task
from sar3d.vqvae.cameras import rays_of, z_depth
from sar3d.vqvae.model import VQVAE
from sar3d.vqvae.volume import RayNoise, Rays, Rendering, render


@dataclass(frozen=True)
class RayBatch:
    """One micro-batch of B objects with N rays each."""

    views: Float[Tensor, "B V 10 H W"]
    """Encoder input."""
    rays: Rays
    cosine: Float[Tensor, "B N"]
    """z-depth of a unit of distance along each ray."""
    rgb: Float[Tensor, "B N 3"]
    """True colors in [0, 1]."""
    alpha: Float[Tensor, "B N"]
    depth: Float[Tensor, "B N"]
    """z-depth, 0 = background."""
    normal: Float[Tensor, "B N 3"] | None
    noise: RayNoise
    patch: tuple[int, int] | None
    """Patches per object and their side; None for scattered rays."""


class VQVAETask(Task):
    """The multi-scale VQVAE: encode six views, render the triplane of their codes, compare.

    Args:
        config: its `perceptual` part should be resolved (`sar3d.metrics.lpips.resolve_weights`), so that all workers
            use the same distance.
    """

    name = "vqvae"
    watched = ("vq",)

    def __init__(self, config: VQVAETaskConfig) -> None:
        self.config = config
        self.model_config = config.model
        self._perceptual: PerceptualLoss | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_perceptual": None}

    def build(self) -> VQVAE:
        model = VQVAE(self.model_config)
        model.checkpoint_activations = self.config.checkpoint_activations
        model.quantizer.defer()
        return model

    def build_discriminator(self) -> nn.Module | None:
        return PatchDiscriminator(norm=self.config.discriminator_norm) if self.config.loss.adversarial else None

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        lr, weight_decay = self.config.lr, self.config.weight_decay
        groups: dict[str, dict[str, Any]] = {
            "encoder": {"params": [], "lr": lr.encoder, "weight_decay": weight_decay.transformer},
            "transformer": {"params": [], "lr": lr.transformer, "weight_decay": weight_decay.transformer},
            "field": {"params": [], "lr": lr.field, "weight_decay": weight_decay.other},
            "codebook": {"params": [], "lr": lr.other, "weight_decay": weight_decay.codebook},
            "other": {"params": [], "lr": lr.other, "weight_decay": weight_decay.other},
        }
        for name, parameter in model.named_parameters():
            groups[_group_of(name)]["params"].append(parameter)
        return list(groups.values())

    def discriminator_groups(self, discriminator: nn.Module) -> list[dict[str, Any]]:
        return [
            {
                "params": list(discriminator.parameters()),
                "lr": self.config.lr.discriminator,
                "weight_decay": 0.0,
                "betas": (0.0, 0.999),
            }
        ]

    def collate(self, samples: list[ViewSample], step: int, keys: list[SampleKey]) -> RayBatch:
        volume, sampling = self.model_config.volume, self.config.sampling
        views = torch.stack([sample.encoder_input for sample in samples])
        drawn = []
        for sample, key in zip(samples, keys, strict=True):
            generator = key.generator()
            pixels = self._pixels(sample.supervision, generator)
            noise = RayNoise.draw(1, pixels.shape[0], volume, generator, torch.device("cpu"))
            drawn.append((*_looked_up(sample.supervision, pixels, bool(self.config.loss.normal)), noise))
        rays, cosine, rgb, alpha, depth, normal, noises = zip(*drawn, strict=True)
        patches = len(samples[0].supervision.mask), sampling.patch
        return RayBatch(
            views=views,
            rays=Rays(torch.stack([r.origins for r in rays]), torch.stack([r.directions for r in rays])),
            cosine=torch.stack(cosine),
            rgb=torch.stack(rgb),
            alpha=torch.stack(alpha),
            depth=torch.stack(depth),
            normal=torch.stack(normal) if self.config.loss.normal else None,
            noise=RayNoise(torch.cat([n.stratified for n in noises]), torch.cat([n.importance for n in noises])),
            patch=patches if sampling.kind == "patches" else None,
        )

    def losses(self, model: nn.Module, batch: RayBatch, step: int, discriminator: nn.Module | None = None) -> Losses:
        config = self.config.loss
        planes, quantized = model(batch.views, step >= self.config.codebook.quantize_start)
        rendering = render(
            _vqvae(model).field(planes),
            batch.rays,
            self.model_config.volume,
            noise=batch.noise,
            chunk=self.config.sampling.chunk,
            normals=bool(config.normal),
        )
        fake, real = _rendered(rendering, batch), _true(batch)
        total, metrics = reconstruction_losses(fake, real, config, step, self._distance(batch.views.device))
        total = total + config.vq * quantized.loss
        if discriminator is not None and (weight := adversarial_weight(config, step)):
            judged = generator_loss(discriminator(fake.rgb))
            total = total + weight * judged
            metrics["adversarial"] = judged.detach()
        error = (rendering.rgb.detach() - batch.rgb).square().mean()
        metrics |= {"loss": total.detach(), "vq": quantized.loss.detach(), "psnr": -10 * torch.log10(error)}
        return Losses(total, metrics, extras=fake.rgb.detach())

    def discriminator_losses(
        self, discriminator: nn.Module, batch: RayBatch, losses: Losses, step: int
    ) -> Losses | None:
        if not adversarial_weight(self.config.loss, step):
            return None
        real, fake = discriminator(_true(batch).rgb), discriminator(losses.extras)
        loss = discriminator_loss(real, fake)
        metrics = {
            "discriminator": loss.detach(),
            "real_logit": real.mean().detach(),
            "fake_logit": fake.mean().detach(),
        }
        return Losses(self.config.loss.discriminator * loss, metrics)

    def before_step(self, model: nn.Module, moment: Moment) -> dict[str, float]:
        start = self.config.codebook.quantize_start
        if start and moment.step == start:
            vqvae = _vqvae(model)
            vqvae.quantizer.initialize(_latents(vqvae, moment), moment.generator)
            moment.replaced.extend([vqvae.quantizer.codebook, *vqvae.quantizer.phi.parameters()])
        return {}

    def after_step(self, model: nn.Module, moment: Moment) -> dict[str, Tensor | float]:
        codebook, vqvae = self.config.codebook, _vqvae(model)
        if moment.step < codebook.quantize_start:
            return {}
        hits = vqvae.quantizer.pending
        assert hits is not None
        vqvae.quantizer.settle(moment.sync.average(hits) * moment.sync.world)
        scales = self.model_config.quantizer.scales
        usage = vqvae.quantizer.usage().unbind()  # left on the device: a number would have to be waited for
        metrics: dict[str, Tensor | float] = {f"codebook/usage_{n}": u for n, u in zip(scales, usage, strict=True)}
        metrics["codebook/perplexity"] = vqvae.quantizer.perplexity().mean()
        due = codebook.dead_code_reset_every and (moment.step + 1) % codebook.dead_code_reset_every == 0
        if due and moment.step <= codebook.dead_code_reset_until:
            replaced = vqvae.quantizer.reset_dead_codes(
                _latents(vqvae, moment), codebook.dead_code_threshold, moment.generator
            )
            metrics["codebook/reset"] = float(replaced)
            moment.replaced.append(vqvae.quantizer.codebook)
        return metrics

    def evaluate(self, model: nn.Module, held_out: ReconstructionSets, sync: Sync) -> dict[str, float]:
        vqvae = _vqvae(model)
        distance = self._distance(next(vqvae.parameters()).device, needed=True)
        assert distance is not None
        return evaluate(vqvae, held_out, distance, sync)

    def draw(self, model: nn.Module, held_out: ReconstructionSets) -> dict[str, bytes]:
        return draw(_vqvae(model), held_out)

    def export(self, model: nn.Module, folder: Path) -> None:
        save_pretrained(_vqvae(model), folder)

    def _pixels(self, targets: Targets, generator: torch.Generator) -> Tensor:
        """(N, 3): view, row, column of the pixels to render."""
        sampling, side = self.config.sampling, targets.mask.shape[-1]
        if sampling.kind == "rays":
            share, grown = sampling.rays_foreground, sampling.dilation
            return foreground_rays(targets.mask, sampling.rays, share, grown, generator=generator)
        boxes = patch_boxes(bounding_boxes(targets.mask), side, sampling.patch, generator, sampling.patch_foreground)
        inside = patch_pixels(boxes)
        view = torch.arange(len(boxes))[:, None, None].expand(-1, inside.shape[1], 1)
        return rearrange(torch.cat([view, inside], -1), "v n c -> (v n) c")

    def _distance(self, device: torch.device, needed: bool = False) -> PerceptualLoss | None:
        if not (self.config.loss.lpips or needed):
            return None
        if self._perceptual is None:
            self._perceptual = perceptual_loss(self.config.perceptual).to(device)
        return self._perceptual


def _group_of(name: str) -> str:
    if name.startswith("encoder."):
        return "encoder"
    if name.startswith(("decoder.blocks.", "decoder.pos_embed")):
        return "transformer"
    if name.startswith("field_mlp."):
        return "field"
    return "codebook" if name == "quantizer.codebook" else "other"


def _vqvae(model: nn.Module) -> VQVAE:
    """What is inside a wrapper for distributed training."""
    inner = getattr(model, "module", model)
    assert isinstance(inner, VQVAE)
    return inner


@torch.no_grad()
def _latents(model: VQVAE, moment: Moment) -> Float[Tensor, "BP D G G"]:
    """Latent planes of the global batch, in its order."""
    local = torch.cat([model.latent(batch.views) for batch in moment.batches()])
    return torch.cat(moment.sync.all_gather(local))


def _looked_up(
    targets: Targets, pixels: Tensor, normals: bool
) -> tuple[Rays, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Rays, their cosines, and the targets' color, alpha, depth and normal at (view, row, column)."""
    view, row, column = pixels.unbind(-1)
    cameras = targets.cameras[view]
    height, width = targets.mask.shape[-2:]
    found = rays_of(cameras, height, width, pixels[:, None, 1:])
    rays = Rays(found.origins[:, 0], found.directions[:, 0])
    cosine = z_depth(torch.ones(len(view), 1), found.directions, cameras)[:, 0]
    rgb = (targets.image[view, :, row, column] + 1) / 2
    normal = targets.normal[view, :, row, column] if normals and targets.normal is not None else None
    if normals and normal is None:
        raise UserError("the loss normal needs normals, which the data loader was told not to read")
    return rays, cosine, rgb, targets.mask[view, row, column], targets.depth[view, row, column], normal


def _rendered(rendering: Rendering, batch: RayBatch) -> Pixels:
    return _pictures(rendering.rgb, rendering.opacity, rendering.depth, rendering.normal, batch.cosine, batch.patch)


def _true(batch: RayBatch) -> Pixels:
    return _pictures(batch.rgb, batch.alpha, batch.depth, batch.normal, None, batch.patch)


def _pictures(
    rgb: Tensor,
    alpha: Tensor,
    depth: Tensor,
    normal: Tensor | None,
    cosine: Tensor | None,
    patch: tuple[int, int] | None,
) -> Pixels:
    if patch is None:
        return ray_pixels(rgb, alpha, depth, normal, cosine)
    count, side = patch

    def split(x: Tensor | None) -> Any:
        return None if x is None else rearrange(x, "b (v n) ... -> (b v) n ...", v=count)

    return ray_pixels(split(rgb), split(alpha), split(depth), split(normal), split(cosine), height=side)
