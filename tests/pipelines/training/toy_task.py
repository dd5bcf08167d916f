"""A small autoencoder with a discriminator and a codebook-like buffer, and its data: a task that trains in seconds."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sar3d.data.loading.order import Order
from sar3d.seeds import SampleKey, generator
from sar3d.training.task import Losses, Moment, Sync, Task, worker_slice

SIDE = 8


@dataclass(frozen=True)
class ToyDataset:
    """Smooth random pictures; `broken` is a row whose reading fails."""

    size: int = 24
    broken: int | None = None

    @property
    def sizes(self) -> list[int]:
        return [self.size]

    def batches(
        self, order: Order, start: int, rank: int, world: int, prefetch: int
    ) -> Iterator[tuple[int, list[tuple[SampleKey, Tensor]]]]:
        local, step = order.batch_size // world, start
        while True:
            rows = list(enumerate(order.batch(step).tolist()))[rank * local : (rank + 1) * local]
            yield step, [(SampleKey(order.seed, step, index), self.picture(row)) for index, row in rows]
            step += 1

    def picture(self, row: int) -> Tensor:
        if row == self.broken:
            raise OSError(f"row {row} cannot be read")
        coarse = torch.rand(1, 3, 3, 3, generator=generator(0, "picture", row))
        return nn.functional.interpolate(coarse, SIDE, mode="bilinear", align_corners=True)[0]


@dataclass
class ToyBatch:
    pictures: Tensor
    noise: Tensor
    keys: list[SampleKey]


class ToyModel(nn.Module):
    """The buffers are a statistic of the data and a count, `offset` a parameter that the task itself overwrites."""

    def __init__(self, dropout: float, width: int = 12) -> None:
        super().__init__()
        narrow = nn.Conv2d(width, 4, 1)
        self.encoder = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.GELU(), nn.Dropout(dropout), narrow)
        self.decoder = nn.Sequential(nn.Conv2d(4, 4 * width, 3, 1, 1), nn.PixelShuffle(2), nn.GELU())
        self.head = nn.Conv2d(width, 3, 3, 1, 1)
        self.offset = nn.Parameter(torch.zeros(4, 1, 1))
        self.frozen = nn.Parameter(torch.full((2,), 3.0), requires_grad=False)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.pending: list[Tensor] = []
        self.seen: dict[str, torch.dtype] = {}

    def forward(self, pictures: Tensor, noise: Tensor) -> Tensor:
        hidden = self.encoder(pictures) + noise + self.offset
        self.seen = {"hidden": hidden.dtype}
        return self.head(self.decoder(hidden))


@dataclass(frozen=True)
class ToyTask(Task):
    adversarial: bool = True
    discriminator_start: int = 1
    break_buffers: bool = False
    explode_at: int | None = None
    surge_at: int | None = None
    dropout: float = 0.1
    move_every: int = 4
    name: str = "toy"

    def build(self) -> nn.Module:
        return ToyModel(self.dropout)

    def build_discriminator(self) -> nn.Module | None:
        if not self.adversarial:
            return None
        # No last bias: its gradient is zero but for rounding, which Adam would turn into full steps.
        return nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 3, 1, 1, bias=False))

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        heads = [p for name, p in model.named_parameters() if name.startswith("head")]
        others = [p for name, p in model.named_parameters() if not name.startswith(("head", "frozen"))]
        return [{"params": others, "lr": 3e-3, "weight_decay": 0.01}, {"params": heads, "lr": 1e-3, "weight_decay": 0}]

    def discriminator_groups(self, discriminator: nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(discriminator.parameters()), "lr": 1e-3, "weight_decay": 0.0, "betas": (0.0, 0.999)}]

    def collate(self, samples: list[Tensor], step: int, keys: list[SampleKey]) -> ToyBatch:
        noise = [0.05 * torch.randn(4, SIDE // 2, SIDE // 2, generator=key.generator()) for key in keys]
        return ToyBatch(torch.stack(samples), torch.stack(noise), keys)

    def losses(self, model: nn.Module, batch: ToyBatch, step: int, discriminator: nn.Module | None = None) -> Losses:
        made = model(batch.pictures, batch.noise).float()
        model.seen["made"] = made.dtype
        model.pending.append(batch.pictures.mean((0, 2, 3)))
        rebuilt = (made - batch.pictures).abs().mean()
        total = rebuilt
        metrics = {"reconstruction": rebuilt.detach()}
        if discriminator is not None and step >= self.discriminator_start:
            fooled = -discriminator(made).float().mean()
            total = total + 0.05 * fooled
            metrics["fooled"] = fooled.detach()
        if step == self.explode_at:
            total = total * float("nan")
        if self.surge_at is not None and step >= self.surge_at:
            total = total * 100
        model.seen["loss"] = total.dtype
        return Losses(total, {"loss": total.detach(), **metrics}, made.detach())

    def discriminator_losses(
        self, discriminator: nn.Module, batch: ToyBatch, losses: Losses, step: int
    ) -> Losses | None:
        if step < self.discriminator_start:
            return None
        both = discriminator(torch.cat([batch.pictures, losses.extras])).float()
        real, fake = both.chunk(2)
        total = (1 - real).relu().mean() + (1 + fake).relu().mean()
        return Losses(total, {"discriminator": total.detach()})

    def before_step(self, model: nn.Module, moment: Moment) -> dict[str, float]:
        if not self.move_every or moment.step % self.move_every:
            return {}
        means = [model.encoder[0](batch.pictures).detach().mean((0, 2, 3))[:4] for batch in moment.batches()]
        everywhere = torch.cat(moment.sync.all_gather(torch.stack(means).mean(0, keepdim=True))).mean(0)
        with torch.no_grad():
            model.offset.copy_(everywhere.reshape(4, 1, 1) + torch.rand(4, 1, 1, generator=moment.generator))
        return {"moved": 1.0}

    def after_step(self, model: nn.Module, moment: Moment) -> dict[str, float]:
        # Once a step and over all workers: a statistic that each pass updated would depend on their number.
        mean = torch.stack(model.pending).mean(0)
        model.pending.clear()
        model.steps += 1
        model.mean.lerp_(mean if self.break_buffers else moment.sync.average(mean), 0.1)
        return {}

    def evaluate(self, model: nn.Module, held_out: ToyDataset, sync: Sync) -> dict[str, float]:
        rows = []
        for row in worker_slice(held_out.size, sync):
            picture = held_out.picture(row)[None]
            error = (model(picture, torch.zeros(1)).float() - picture).abs().mean()
            rows.append({"error": float(error)})
        every = [row for part in sync.gather_objects(rows) for row in part]
        return {name: sum(row[name] for row in every) / len(every) for name in every[0]} if every else {}

    def draw(self, model: nn.Module, held_out: ToyDataset) -> dict[str, bytes]:
        made = model(held_out.picture(0)[None], torch.zeros(1))
        return {"picture": bytes(str(zlib.crc32(made.float().numpy().tobytes())), "ascii")}

    def export(self, model: nn.Module, folder: Path) -> None:
        save_file(
            {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors"
        )
        (folder / "config.json").write_text('{"kind": "toy", "config": {}}')
