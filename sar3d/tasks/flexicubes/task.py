"""Training the mesh decoder: what one step computes (paper section 3.1; published.md, FlexiCubes)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sar3d.data.datasets.view_dataset import ViewSample
from sar3d.errors import UserError
from sar3d.hub import from_pretrained, save_pretrained
from sar3d.metrics.lpips import PerceptualLoss, perceptual_loss
from sar3d.seeds import SampleKey
from sar3d.tasks.flexicubes.config import FlexiTaskConfig
from sar3d.tasks.flexicubes.evaluate import draw, evaluate
from sar3d.tasks.flexicubes.losses import PictureTargets, mesh_losses
from sar3d.tasks.flexicubes.pictures import MeshPictures, mesh_pictures, published_cameras
from sar3d.tasks.flexicubes.start import field_level, field_slope, steepness_of
from sar3d.tasks.vqvae.discriminator import PatchDiscriminator, discriminator_loss, generator_loss
from sar3d.tasks.vqvae.evaluate import ReconstructionSets
from sar3d.training.task import Losses, Moment, Sync, Task
from sar3d.vqvae.flexi_config import FlexiConfig, FlexiVQVAEConfig
from sar3d.vqvae.flexi_field import Surfaces
from sar3d.vqvae.flexi_model import FlexiVQVAE
from sar3d.vqvae.model import VQVAE


@dataclass(frozen=True)
class PictureBatch:
    """One micro-batch of B objects, each seen in V views."""

    views: Float[Tensor, "B E C H W"]
    """Encoder input."""
    cameras: Float[Tensor, "B V 25"]
    targets: PictureTargets


class FlexiTask(Task):
    """The mesh decoder: tokens of six views to a triplane, its heads to a mesh, the mesh's pictures compared.

    Args:
        config: its `perceptual` part should be resolved (`sar3d.metrics.lpips.resolve_weights`), so that all workers
            use the same distance.
        start: gives the folder of the trained VQVAE, on the machine that calls it.
        digest: of that VQVAE, see `sar3d.hub.digest`; noted in the exported model.
    """

    name = "flexicubes"

    def __init__(self, config: FlexiTaskConfig, start: Callable[[], Path], digest: str = "") -> None:
        self.config, self.start, self.digest = config, start, digest
        self._vqvae: VQVAE | None = None
        self._perceptual: PerceptualLoss | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_vqvae": None, "_perceptual": None}

    def build(self) -> FlexiVQVAE:
        self._vqvae = vqvae = from_pretrained(self.start(), kind="vqvae")
        field = vqvae.config.field
        mesh = FlexiConfig(self.config.grid, field.hidden, field.hidden_layers, self.config.deformation)
        model = FlexiVQVAE(FlexiVQVAEConfig(vqvae=vqvae.config, mesh=mesh))
        trained = {name: t for name, t in vqvae.state_dict().items() if not name.startswith("field_mlp.")}
        model.load_state_dict(trained, strict=False)
        model.checkpoint_activations = self.config.checkpoint_activations
        model.requires_grad_(False)
        for part in self._learning(model):
            part.requires_grad_(True)
        return model

    def build_discriminator(self) -> nn.Module | None:
        return PatchDiscriminator(norm=self.config.discriminator_norm) if self.config.loss.adversarial else None

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        rates = (self.config.lr, self.config.decoder_lr)
        parts = self._learning(_flexi(model))
        return [
            {"params": list(part.parameters()), "lr": lr, "weight_decay": self.config.weight_decay}
            for part, lr in zip(parts, rates, strict=False)
        ]

    def discriminator_groups(self, discriminator: nn.Module) -> list[dict[str, Any]]:
        parameters, lr = list(discriminator.parameters()), self.config.discriminator_lr
        return [{"params": parameters, "lr": lr, "weight_decay": 0.0, "betas": (0.0, 0.999)}]

    def collate(self, samples: list[ViewSample], step: int, keys: list[SampleKey]) -> PictureBatch:
        true = [sample.supervision for sample in samples]
        normals = [one.normal for one in true if one.normal is not None]
        if self.config.loss.normal and len(normals) < len(true):
            raise UserError("the loss normal needs normals, which the data loader was told not to read")
        return PictureBatch(
            views=torch.stack([sample.encoder_input for sample in samples]),
            cameras=torch.stack([one.cameras for one in true]),
            targets=PictureTargets(
                rgb=torch.stack([(one.image + 1) / 2 for one in true]),
                alpha=torch.stack([one.mask for one in true]),
                depth=torch.stack([one.depth for one in true]),
                normal=torch.stack(normals) if self.config.loss.normal else None,
            ),
        )

    def losses(
        self, model: nn.Module, batch: PictureBatch, step: int, discriminator: nn.Module | None = None
    ) -> Losses:
        config = self.config.loss
        made, surfaces = self._drawn(model, batch)
        distance = self._distance(batch.views.device)
        side = _flexi(model).config.field.side
        total, metrics = mesh_losses(made, surfaces, batch.targets, config, step, side, distance)
        fake = torch.cat([one.rgb for one in made])
        if discriminator is not None and self._is_judged(step):
            judged = generator_loss(discriminator(fake))
            total = total + config.adversarial * judged
            metrics["adversarial"] = judged.detach()
        error = (fake.detach() - batch.targets.rgb.flatten(0, 1)).square().mean()
        valid = [float(mesh.valid) for mesh in surfaces.meshes]
        faces = [float(len(mesh.faces)) for mesh in surfaces.meshes]
        metrics |= {"loss": total.detach(), "psnr": -10 * torch.log10(error)}
        metrics |= {"valid": total.new_tensor(valid).mean(), "faces": total.new_tensor(faces).mean()}
        return Losses(total, metrics, extras=fake.detach())

    def discriminator_losses(
        self, discriminator: nn.Module, batch: PictureBatch, losses: Losses, step: int
    ) -> Losses | None:
        if not self._is_judged(step):
            return None
        real, fake = discriminator(batch.targets.rgb.flatten(0, 1)), discriminator(losses.extras)
        loss = discriminator_loss(real, fake)
        metrics = {"discriminator": loss.detach()}
        metrics |= {"real_logit": real.mean().detach(), "fake_logit": fake.mean().detach()}
        return Losses(self.config.loss.discriminator * loss, metrics)

    def before_step(self, model: nn.Module, moment: Moment) -> dict[str, float]:
        if moment.step or self.config.start == "random":
            return {}
        flexi = _flexi(model)
        level, steepness = self._begin_at(flexi, moment)
        assert self._vqvae is not None
        flexi.heads.start_from(self._vqvae.field_mlp, level, steepness)
        moment.replaced.extend([*flexi.heads.sdf.parameters(), *flexi.heads.rgb.parameters()])
        return {"start/level": level, "start/steepness": steepness}

    def evaluate(self, model: nn.Module, held_out: ReconstructionSets, sync: Sync) -> dict[str, float]:
        distance = self._distance(next(model.parameters()).device, needed=True)
        assert distance is not None
        return evaluate(_flexi(model), held_out, distance, sync)

    def draw(self, model: nn.Module, held_out: ReconstructionSets) -> dict[str, bytes]:
        return draw(_flexi(model), held_out)

    def export(self, model: nn.Module, folder: Path) -> None:
        save_pretrained(_flexi(model), folder, {"vqvae": self.digest})

    def _learning(self, model: FlexiVQVAE) -> list[nn.Module]:
        """The parts that learn."""
        return [model.heads] if self.config.train == "heads" else [model.heads, model.decoder]

    def _is_judged(self, step: int) -> bool:
        return bool(self.config.loss.adversarial) and step >= self.config.loss.adversarial_start

    def _drawn(self, model: nn.Module, batch: PictureBatch) -> tuple[list[MeshPictures], Surfaces]:
        """Pictures of the micro-batch's meshes, and the meshes."""
        field = _flexi(model).field(model(batch.views))
        surfaces = field.surfaces(training=True, margin=self.config.loss.margin)
        cameras = published_cameras(batch.cameras) if self.config.cameras == "published" else batch.cameras
        height, width = batch.targets.alpha.shape[-2:]
        with torch.autocast(batch.views.device.type, enabled=False):
            made = mesh_pictures(
                [(mesh.vertices, mesh.faces) for mesh in surfaces.meshes],
                field.color,
                cameras,
                height,
                width,
                self.config.samples,
                color_silhouettes=self.config.loss.color_silhouettes,
            )
        return made, surfaces

    @torch.no_grad()
    def _begin_at(self, model: FlexiVQVAE, moment: Moment) -> tuple[float, float]:
        """Level and steepness of the field to begin with: medians over the objects of the global batch."""
        assert self._vqvae is not None
        mlp = self._vqvae.field_mlp.to(moment.device)
        batches = [model(batch.views) for batch in moment.batches()]
        field, mesh = model.config.field, model.flexi_config.mesh

        def agreed(values: list[Tensor], given: float | None, what: str) -> float:
            if given is not None:
                return given
            everything = [v for part in moment.sync.gather_objects(torch.cat(values).tolist()) for v in part]
            if not everything:
                raise UserError(f"no object of the first batch has a surface: give the {what}, or set start=random")
            return median(everything)

        level = agreed([field_level(planes, mlp, field) for planes in batches], self.config.level, "level")
        slopes = [field_slope(planes, mlp, field, mesh, level) for planes in batches]
        if self.config.steepness is not None:
            return level, self.config.steepness
        return level, steepness_of(agreed(slopes, None, "steepness"))

    def _distance(self, device: torch.device, needed: bool = False) -> PerceptualLoss | None:
        if not (self.config.loss.lpips or needed):
            return None
        if self._perceptual is None:
            self._perceptual = perceptual_loss(self.config.perceptual).to(device)
        return self._perceptual


def _flexi(model: nn.Module) -> FlexiVQVAE:
    """What is inside a wrapper for distributed training."""
    inner = getattr(model, "module", model)
    assert isinstance(inner, FlexiVQVAE)
    return inner
