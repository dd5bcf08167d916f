"""What `cache_tokens` spends besides the model: a shard made by the stage against the bare model on the same inputs.

    python benchmarks/bench_cache_tokens.py [--preset tiny] [--device cpu] [--threads 1] [--objects 24] [--quick]
        [--views runs/demo/render/<name>]

The views are balls with noisy skins, which are harder to unpack than most objects, or those of a `render` output. The
stage reads a Parquet file of views, decodes it, runs the encoder and writes the codes to Parquet. Its time is compared
with what it spends inside the model, and with the bare model, which gets prepared tensors. Stage and bare model run
alternately, several times, and the medians count; between two runs a busy machine's speed may change by more than is
measured, between the stage and the model in it not. Wall time tells what a worker with cores to spare loses, CPU time
what one with a single core does. Without Ray.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipelines.cache_tokens import CacheTokensConfig, CacheTokensStage
from pipelines.caching.devices import exact
from pipelines.caching.token_encoder import TokenEncoder, open_token_encoder
from pipelines.runtime.output import ShardWriter
from pipelines.runtime.plan import Item
from pipelines.runtime.stage import Context
from sar3d.camera_layout import CameraLayoutConfig, cameras
from sar3d.data.formats.views import decode_row, encode_view, make_rows, views_schema
from sar3d.data.loading.view_tensors import encoder_input
from sar3d.hub import save_pretrained
from sar3d.vqvae.config import PRESETS
from sar3d.vqvae.model import VQVAE


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=list(PRESETS), default="tiny")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPUs of one worker")
    parser.add_argument("--objects", type=int, default=24, help="objects in the shard, four view groups each")
    parser.add_argument("--views", type=Path, help="a render output at the preset's resolution, instead of balls")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few objects once, to see that it runs")
    given = parser.parse_args()
    if given.quick:
        given.objects, given.repeats = 2, 1
    with tempfile.TemporaryDirectory() as name:
        torch.manual_seed(0)
        save_pretrained(VQVAE(PRESETS[given.preset]), Path(name, "model"))
        token_encoder = open_token_encoder(str(Path(name, "model")), float(given.device == "cuda"), given.threads, None)
        if given.views:
            items, inputs = read_views(given.views, given.objects, token_encoder.digest)
        else:
            items, inputs = write_views(
                Path(name), given.objects, PRESETS[given.preset].resolution, token_encoder.digest
            )
        report(token_encoder, items, inputs, Path(name), given.repeats)


def write_views(folder: Path, objects: int, resolution: int, digest: str) -> tuple[list[Item], list[Tensor]]:
    """A file of views of colored balls, its items, and the encoder input of every view group."""
    layout = cameras(CameraLayoutConfig(), "ball", np.eye(3) * 0.45)
    writer = ShardWriter(folder / "views.parquet", views_schema(resolution))
    items, inputs = [], []
    row_number = 0
    for number in range(objects):
        chance = np.random.default_rng(number)
        views = {v: encode_view(*ball(resolution, chance)) for v in layout.view_ids}
        rows = make_rows(f"{number:032x}", "0" * 64, layout, views, np.eye(4))
        place = [row_number, len(rows)]
        items.append({"uid": f"{number:032x}", "vqvae": digest, "_file": str(folder / "views.parquet"), "_rows": place})
        row_number += len(rows)
        for row in rows:
            writer.add(row)
            inputs.append(encoder_input(decode_row(row)))
    writer.close()
    return items, inputs


def read_views(folder: Path, objects: int, digest: str) -> tuple[list[Item], list[Tensor]]:
    """The first objects of a render output, as items, and the encoder input of every view group."""
    items: list[Item] = []
    inputs: list[Tensor] = []
    for file in sorted(folder.glob("part-*.parquet")):
        rows = pq.read_table(file).to_pylist() if len(items) < objects else []
        places = itertools.groupby(range(len(rows)), key=lambda place: rows[place]["uid"])
        for uid, members in itertools.islice(places, objects - len(items)):
            numbers = list(members)
            items.append({"uid": uid, "vqvae": digest, "_file": str(file), "_rows": [numbers[0], len(numbers)]})
            inputs += [encoder_input(decode_row(rows[number])) for number in numbers]
    return items, inputs


def ball(resolution: int, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Color, alpha, depth and normal of one ball with a noisy skin."""
    y, x = (np.mgrid[:resolution, :resolution] + 0.5) / resolution * 2.8 - 1.4
    inside = x * x + y * y < 1
    height = np.sqrt(np.maximum(1 - x * x - y * y, 0))
    color = np.full((resolution, resolution, 3), 255, np.uint8)
    skin = 90 + 120 * height[..., None] * chance.uniform(0.3, 1, 3) + chance.normal(0, 6, color.shape)
    color[inside] = skin.clip(0, 255).astype(np.uint8)[inside]
    depth = np.where(inside, 2 - 0.45 * height, 0)
    normal = np.where(inside[..., None], np.stack([x, y, height], -1), 0)
    return color, (255 * inside).astype(np.uint8), depth, normal


def report(token_encoder: TokenEncoder, items: list[Item], inputs: list[Tensor], folder: Path, repeats: int) -> float:
    """Say the times and the overhead; returns it as a share of the wall time inside the model."""
    batches = [torch.stack(inputs[i : i + token_encoder.batch]) for i in range(0, len(inputs), token_encoder.batch)]
    bare(token_encoder, batches[:1])
    runs = [(*stage(token_encoder, items, folder), bare(token_encoder, batches)) for _ in range(repeats)]
    sys.stdout.write(
        f"{len(inputs)} view groups of {token_encoder.model.config.resolution}² on {token_encoder.device}, "
        f"batch {token_encoder.batch}, {token_encoder.helpers} helping threads\n"
    )
    shares = []
    for i, name in enumerate(("wall", "CPU")):
        whole, inside, alone = (1e3 / len(inputs) * statistics.median(run[k][i] for run in runs) for k in range(3))
        shares.append(statistics.median(run[0][i] / run[1][i] for run in runs) - 1)
        sys.stdout.write(
            f"{name} time of a group: stage {whole:.2f} ms, {inside:.2f} ms of it in the model: overhead "
            f"{100 * shares[-1]:.1f} %; bare model {alone:.2f} ms: {100 * (whole / alone - 1):.1f} %\n"
        )
    return shares[0]


Seconds = tuple[float, float]
"""Wall and CPU."""


def now(device: torch.device) -> Seconds:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def stage(token_encoder: TokenEncoder, items: list[Item], folder: Path) -> tuple[Seconds, Seconds]:
    """The time in which the stage makes the shard, writing included, and how much of it the model takes."""
    inside = [0.0, 0.0]
    encode = token_encoder.model.tokens

    def timed(views: Tensor) -> Tensor:
        before = now(token_encoder.device)
        tokens = encode(views)
        for i, (start, end) in enumerate(zip(before, now(token_encoder.device), strict=True)):
            inside[i] += end - start
        return tokens

    context = Context(CacheTokensConfig(), state=token_encoder)
    made = CacheTokensStage()
    started = now(token_encoder.device)
    writer = ShardWriter(folder / "codes.parquet", made.schema(context))
    with mock.patch.object(token_encoder.model, "tokens", timed):
        for row in made.process(context, items):
            assert isinstance(row, dict), row
            writer.add(row)
    writer.close()
    ended = now(token_encoder.device)
    return (ended[0] - started[0], ended[1] - started[1]), (inside[0], inside[1])


def bare(token_encoder: TokenEncoder, batches: list[Tensor]) -> Seconds:
    """The time in which the model alone makes the codes of prepared inputs, transfers included."""
    started = now(token_encoder.device)
    with torch.inference_mode(), exact():
        for views in batches:
            token_encoder.model.tokens(views.to(token_encoder.device)).cpu()
    ended = now(token_encoder.device)
    return ended[0] - started[0], ended[1] - started[1]


if __name__ == "__main__":
    main()
