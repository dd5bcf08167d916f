"""The loaders: views against one folder per chunk as published, and codes with conditions at 200 samples a second.

python benchmarks/bench_loader.py [--device cuda] [--quick] [--views FILE ...] [--threads 2]

Both view loaders make the same tensors of the same twelve views: six encoder inputs and twelve targets. What differs
is the layout: twelve views side by side in RGB PNGs and a JPEG of disparity and alpha there, lossless pictures in
Parquet here. Rounds of both alternate; the ratio is that of their medians.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sar3d.data.datasets.token_dataset import TokenDataConfig, TokenDataset
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.datasets.view_dataset import ViewDataset
from sar3d.data.formats.conditions import condition_row, conditions_schema
from sar3d.data.formats.tokens import token_row, tokens_schema
from sar3d.data.formats.views import EncodedView, Views, decode_row, encode_view, read_views, view_row, views_schema
from sar3d.data.loading.order import permutation
from sar3d.data.loading.view_tensors import Targets, encoder_channels, view_targets
from sar3d.geometry import camera_rays, intrinsics, look_at, spherical_to_cartesian
from sar3d.seeds import SampleKey
from sar3d.training.feed import feed
from sar3d.training.settings import TrainSettings
from sar3d.training.task import move

VIEWS = 12
FARTHEST = 3.0
SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
LENGTH = 2040
RATE = 200


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    objects: int
    resolution: int
    rounds: int
    token_rows: int
    condition: tuple[int, int]
    seconds: float
    row_group: int
    """Bytes. Smaller than a stage's row groups, as the made-up datasets are."""


FULL = Size(objects=64, resolution=256, rounds=5, token_rows=768, condition=(257, 1024), seconds=8.0, row_group=1 << 20)
QUICK = Size(objects=24, resolution=64, rounds=3, token_rows=96, condition=(64, 256), seconds=1.0, row_group=1 << 16)


def log(text: str) -> None:
    sys.stdout.write(text + "\n")


# ---- the same views in both layouts


def made_up_views(number: int, resolution: int) -> Views:
    """A shaded, textured ellipsoid seen from twelve sides: as smooth and as empty as renders are."""
    rng = np.random.default_rng(number)
    radii, phase, pitch = rng.uniform(0.2, 0.44, 3), rng.uniform(0, 6, 3), rng.uniform(12, 40)
    c2w = look_at(spherical_to_cartesian(1.7, rng.uniform(-10, 60, VIEWS), 30.0 * np.arange(VIEWS)))
    lens = np.broadcast_to(intrinsics(39.6), (VIEWS, 3, 3))
    origins, directions = camera_rays(c2w, lens, resolution, resolution)
    start, way = origins / radii, directions / radii
    half, square = (start * way).sum(-1), (way * way).sum(-1)
    root = half**2 - square * ((start * start).sum(-1) - 1)
    hit = root > 0
    along = (-half - np.sqrt(np.where(hit, root, 0))) / square
    points = origins + along[..., None] * directions
    normal = points / radii**2
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = 0.4 + 0.6 * np.clip(normal @ np.array([0.5, -0.4, 0.77]), 0, 1)[..., None]
    color = (0.5 + 0.45 * np.sin(pitch * points + phase)) * light
    return Views(
        uid=f"object{number:05}",
        sha256=f"{number:064x}",
        group=0,
        view_ids=np.arange(VIEWS, dtype=np.int16),
        rgb=np.where(hit[..., None], color * 255, 255).astype(np.uint8),
        alpha=np.where(hit, 255, 0).astype(np.uint8),
        depth=np.where(hit, along * np.einsum("vhwc,vc->vhw", directions, c2w[:, :3, 2]), 0).astype(np.float32),
        normal=np.where(hit[..., None], normal, 0).astype(np.float32),
        c2w=c2w.astype(np.float32),
        intrinsics=lens.astype(np.float32),
        normalisation=np.eye(4),
    )


def write_rows(path: Path, schema: pa.Schema, rows: Iterator[dict[str, Any]], per_group: int) -> None:
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        while some := list(itertools.islice(rows, per_group)):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))


def our_row(views: Views) -> dict[str, Any]:
    encoded: list[EncodedView] = [
        encode_view(views.rgb[v], views.alpha[v], views.depth[v], views.normal[v]) for v in range(VIEWS)
    ]
    return view_row(
        uid=views.uid,
        sha256=views.sha256,
        group=views.group,
        view_ids=range(VIEWS),
        encoded=encoded,
        c2w=views.c2w,
        intrinsics=views.intrinsics,
        normalisation=views.normalisation,
    )


def write_chunk(folder: Path, views: Views) -> None:
    """One folder of the published layout."""

    def strip(pictures: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate(list(pictures), axis=1)

    folder.mkdir(parents=True)
    depth = np.where(views.depth > 0, views.depth, FARTHEST)
    disparity = 1 / depth
    far, near = np.full(VIEWS, 1 / FARTHEST), disparity.max(axis=(1, 2))
    steps = (disparity - far[:, None, None]) / (near - far)[:, None, None] * 255 + 0.5
    both = np.concatenate([strip(steps.astype(np.uint8)), strip(views.alpha)])
    x, y, z = np.moveaxis(views.normal, -1, 0)
    normal = (np.stack([-x, z, -y], axis=-1) + 1) * 127.5 + 0.5
    Image.fromarray(strip(views.rgb)).save(folder / "raw_img.png")
    Image.fromarray(strip(normal.astype(np.uint8))).save(folder / "normal.png")
    Image.fromarray(both).save(folder / "depth_alpha.jpg")
    cameras = np.concatenate([views.c2w.reshape(VIEWS, 16), views.intrinsics.reshape(VIEWS, 9)], axis=1)
    np.save(folder / "c.npy", cameras)
    np.save(folder / "d_near_far.npy", np.stack([far, near]))


# ---- the published way


def read_chunk_folder(folder: Path, normals: bool) -> tuple[torch.Tensor, Targets]:
    """What our loader makes of a view group, from a chunk."""

    def strip(name: str) -> NDArray[np.uint8]:
        with Image.open(folder / name) as image:
            return np.stack(np.split(np.asarray(image), VIEWS, axis=1))

    rgb, both = strip("raw_img.png"), strip("depth_alpha.jpg")
    size = both.shape[1] // 2
    far, near = np.load(folder / "d_near_far.npy").astype(np.float32)[:, :, None, None]
    depth = 1 / (both[:, :size] * ((near - far) / np.float32(255)) + far)
    depth[depth > 2.9] = 0
    normal = None
    if normals:
        x, y, z = np.moveaxis(strip("normal.png").astype(np.float32) / np.float32(127.5) - 1, -1, 0)
        normal = np.stack([-x, -z, y], axis=1)
    cameras = np.load(folder / "c.npy")
    c2w, lens = cameras[:, :16].reshape(-1, 4, 4), cameras[:, 16:].reshape(-1, 3, 3)
    alpha = np.ascontiguousarray(both[:, size:])
    return encoder_channels(rgb[:6], depth[:6], c2w[:6], lens[:6]), view_targets(rgb, alpha, depth, normal, c2w, lens)


def plain_batches(
    folders: list[Path], batch: int, normals: bool, threads: int, ahead: int = 2
) -> Generator[list[tuple[torch.Tensor, Targets]], None, None]:
    """Shuffled chunks, read `ahead` batches ahead by as many threads as ours has."""
    with ThreadPoolExecutor(threads) as pool:
        order = (int(i) for epoch in itertools.count() for i in permutation(len(folders), epoch))
        waiting = [[pool.submit(read_chunk_folder, folders[next(order)], normals) for _ in range(batch)]]
        while True:
            while len(waiting) <= ahead:
                waiting.append([pool.submit(read_chunk_folder, folders[next(order)], normals) for _ in range(batch)])
            yield [future.result() for future in waiting.pop(0)]


# ---- measuring


def seconds_per_sample(batches: Iterator[Any], count: int, batch: int, take: Callable[[Any], Any]) -> float:
    """The first `count` batches, nothing being ready before."""
    began = time.perf_counter()
    for some in itertools.islice(batches, count):
        take(some)
    return (time.perf_counter() - began) / (count * batch)


def bench_views(size: Size, folder: Path, device: str, threads: int, given: list[str]) -> None:
    files, chunks, truth = write_both(size, folder, given)
    batch = 8
    for normals in (True, False):
        config = ViewDataConfig(normals=normals, cache_decoded=False, keep_bytes=0, threads=threads, val=0.0, test=0.0)
        dataset = ViewDataset(files, config=config, split="all")
        order = dataset.order(0, batch)
        count = max(2, dataset.size // batch // 2)
        times: dict[str, list[float]] = {"ours": [], "plain": []}

        def take_ours(some: Any) -> Any:
            return move([(sample.encoder_input, sample.supervision) for _, sample in some[1]], device)

        for number in range(size.rounds):
            with closing(plain_batches(chunks, batch, normals, threads)) as plain:
                times["plain"].append(seconds_per_sample(plain, count, batch, lambda some: move(some, device)))
            with closing(dataset.batches(order, start=number * count)) as ours:
                times["ours"].append(seconds_per_sample(ours, count, batch, take_ours))
        plain_time, our_time = (statistics.median(times[name]) for name in ("plain", "ours"))
        what = "with normals" if normals else "without normals"
        log(f"views {what}: one folder per chunk {1 / plain_time:7.1f} groups/s, ours {1 / our_time:7.1f} groups/s")
        log(f"views {what}: ratio {plain_time / our_time:.2f}")
    report_losses(files, chunks, truth)
    report_bytes(files)


def write_both(size: Size, folder: Path, given: list[str]) -> tuple[list[str], list[Path], Views]:
    """The same views as Parquet files and as folders; the first group as it was."""
    folders = [folder / "chunks" / str(i) for i in range(size.objects)]
    if given:
        rows = itertools.islice((row for row in read_views(given) if len(row["view_ids"]) == VIEWS), size.objects)
        everything = [decode_row(row) for row in rows]
        folders = folders[: len(everything)]
    else:
        # Making them takes longer than loading them: the objects share sixteen sets of views.
        some = [made_up_views(i, size.resolution) for i in range(16)]
        everything = [replace(some[i % 16], uid=f"object{i:05}", sha256=f"{i:064x}") for i in range(size.objects)]
    for path, views in zip(folders, everything, strict=True):
        write_chunk(path, views)
    schema = views_schema(everything[0].depth.shape[1])
    row_bytes = sum(
        len(content) for name in ("rgb", "alpha", "depth", "normal") for content in our_row(everything[0])[name]
    )
    write_rows(folder / "views.parquet", schema, map(our_row, everything), max(1, size.row_group // row_bytes))
    return [str(folder / "views.parquet")], folders, everything[0]


def report_losses(files: list[str], chunks: list[Path], truth: Views) -> None:
    plain = read_chunk_folder(chunks[0], True)[1]
    config = ViewDataConfig(val=0.0, test=0.0)
    ours = next(ViewDataset(files, config=config, split="all").samples()).supervision
    for name, found in (("one folder per chunk", plain), ("ours", ours)):
        inside = truth.depth > 0
        depth = np.abs(found.depth.numpy() - truth.depth)[inside].max()
        alpha = np.abs(found.mask.numpy() * 255 - truth.alpha).max()
        log(f"views, worst error: {name}: depth {depth:.5f}, alpha {alpha:.0f} of 255")


def report_bytes(files: list[str]) -> None:
    """The second epoch of two workers, one lane each."""
    config = ViewDataConfig(supervise=1, cache_decoded=False, keep_bytes=0, val=0.0, test=0.0)
    fetched, used = 0, 0
    for rank in range(2):
        dataset = ViewDataset(files, config=config, split="all")
        used, epoch = dataset.index.weight, dataset.size // 2
        with closing(dataset.batches(dataset.order(0, 2, 2, 1), rank=rank, world=2, prefetch=0)) as steps:
            # Reading ahead is as far into the next epoch after the second as after the first.
            list(itertools.islice(steps, epoch))
            before = dataset.bytes_fetched
            list(itertools.islice(steps, epoch))
            fetched += dataset.bytes_fetched - before
    log(f"views, bytes fetched in an epoch by 2 workers / bytes of the dataset: {fetched / used:.2f}")


def write_tokens(size: Size, folder: Path) -> tuple[str, str]:
    rng = np.random.default_rng(0)

    def tokens() -> Iterator[dict[str, Any]]:
        for i in range(size.token_rows):
            yield token_row(f"object{i:05}", f"{i:064x}", 0, rng.integers(0, 16384, LENGTH))

    def conditions() -> Iterator[dict[str, Any]]:
        for i in range(size.token_rows):
            features = rng.standard_normal(size.condition, np.float32).astype(np.float16)
            yield condition_row(
                uid=f"object{i:05}",
                sha256=f"{i:064x}",
                kind="image",
                encoder="made up",
                index=1,
                group=0,
                tokens=features,
                pooled=features[0],
            )

    paths = folder / "tokens.parquet", folder / "conditions.parquet"
    write_rows(paths[0], tokens_schema("a" * 64, SCALES, 16384), tokens(), max(1, size.row_group // (2 * LENGTH)))
    write_rows(paths[1], conditions_schema({"image": "made up"}), conditions(), 8)
    return str(paths[0]), str(paths[1])


class Stacked:
    """The part of a task that makes batches."""

    name = "stacked"

    def collate(self, samples: list[Any], step: int, keys: list[SampleKey]) -> list[torch.Tensor]:
        return [torch.stack([getattr(s, name) for s in samples]) for name in ("tokens", "condition", "pooled")]


def bench_tokens(size: Size, folder: Path, device: str, threads: int) -> None:
    """A consumer that takes 5 ms per sample, behind the feed that training uses."""
    tokens, conditions = write_tokens(size, folder)
    config = TokenDataConfig(condition="image", keep_bytes=0, threads=threads, val=0.0, test=0.0)
    dataset: Any = TokenDataset([tokens], [conditions], config, split="all")
    # Few lanes with small windows, so that what was read is soon let go and read again, as in a large dataset.
    settings = TrainSettings(batch=16, lanes=4, window=1, prefetch=4)
    waited, count = 0.0, 0
    task: Any = Stacked()
    with closing(feed(task, dataset, settings, 0, 0, 1, pin=device != "cpu")) as steps:
        next(steps)
        before, began = dataset.bytes_fetched, time.perf_counter()
        while time.perf_counter() - began < size.seconds:
            _, batches, seconds = next(steps)
            waited += seconds
            move(batches, device)
            count += settings.batch
            time.sleep(max(0.0, began + count / RATE - time.perf_counter()))
        total = time.perf_counter() - began
    read = (dataset.bytes_fetched - before) / total / 1e6
    log(
        f"codes + conditions: {count / total:.0f} samples/s, {read:.0f} MB/s read, data wait {100 * waited / total:.2f} %"
    )
    steps_read, began = max(4, size.token_rows // 16), time.process_time()
    with closing(dataset.batches(dataset.order(0, 16, 4, 1))) as free_steps:
        free = seconds_per_sample(free_steps, steps_read, 16, lambda some: some)
    busy = 1e3 * (time.process_time() - began) / steps_read / 16
    log(
        f"codes + conditions: {1 / free:.0f} samples/s without a consumer, {1 / free / RATE:.1f} x the {RATE} wanted, "
        f"{busy:.2f} ms of CPU each"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--views", nargs="*", default=[], help="files of a views dataset instead of made-up views")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    size = QUICK if given.quick else FULL
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        bench_views(size, Path(folder), given.device, given.threads, given.views)
        bench_tokens(size, Path(folder), given.device, given.threads)


if __name__ == "__main__":
    main()
