"""A small VQVAE and balls in a few views, for trainings of the mesh decoder."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from balls import sample

from sar3d.data.datasets.view_dataset import ViewSample
from sar3d.data.loading.order import Order
from sar3d.seeds import SampleKey

MODEL: dict[str, Any] = {
    "resolution": 32,
    "encoder": {"channels": 16, "multipliers": [1], "attention_width": 16, "attention_heads": 1, "blocks": 1},
    "quantizer": {"codebook_size": 64, "scales": [1, 2, 4]},
    "decoder": {
        "width": 32,
        "depth": 1,
        "heads": 1,
        "channels": 8,
        "multipliers": [1, 1, 1],
        "blocks": 1,
        "plane_channels": 8,
        "tokens_in_stream": True,
    },
    "field": {"hidden": 16, "density_scale": 20.0},
    "volume": {"coarse": 24, "fine": 0},
}


def few(number: int, views: int = 3) -> ViewSample:
    ball = sample(number)
    return replace(ball, supervision=ball.supervision.first(views))


class Balls:
    """The dataset protocol over a few balls."""

    def __init__(self, count: int, views: int) -> None:
        self.samples = [few(n, views) for n in range(count)]
        self.sizes = [1] * count

    def batches(self, order: Order, start: int, rank: int, world: int, prefetch: int) -> Iterator[Any]:
        step = start
        while True:
            chosen = order.batch(step)
            places = range(rank * len(chosen) // world, (rank + 1) * len(chosen) // world)
            yield step, [(SampleKey(order.seed, step, i), self.samples[int(chosen[i])]) for i in places]
            step += 1
