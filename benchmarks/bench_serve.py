"""Latency and throughput of the models behind the service, with and without batches, in one run.

    python benchmarks/bench_serve.py [--model runs/demo] [--requests 48] [--clients 8]

Without --model: an untrained transformer of the demo's size. Measures what one replica does in one process, without HTTP:
seconds to the first preview and to the last token of a single request, and samples per second while `--clients` requests wait.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from pipelines.serving.models import ModelService
from pipelines.serving.settings import ModelSettings
from pipelines.serving.work import Asked, Scale
from sar3d import Sar3D
from sar3d.ar.config import preset
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions import encoder_id
from sar3d.hub import digest, save_pretrained
from sar3d.vqvae.config import PRESETS
from sar3d.vqvae.model import VQVAE


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        system = Sar3D.from_pretrained(given.model or untrained(Path(scratch)), device="auto")
        services = {size: ModelService(system, ModelSettings(batch=size)) for size in (1, given.clients)}
        services[1].warm()
        first, whole = zip(*[asyncio.run(alone(services[1], seed)) for seed in range(5)], strict=True)
        say(
            f"first preview {statistics.median(first):.2f} s, last token {statistics.median(whole):.2f} s (median of 5)"
        )
        rates: dict[int, list[float]] = {size: [] for size in services}
        for _ in range(3):  # in turn, so that a busy machine slows both
            for size, service in services.items():
                rates[size].append(asyncio.run(throughput(service, given.requests, given.clients)))
        for size, found in rates.items():
            say(f"batches of {size}: {statistics.median(found):.2f} samples/s, {given.clients} waiting (median of 3)")
        ratio = statistics.median(b / a for a, b in zip(rates[1], rates[given.clients], strict=True))
        say(f"batched to unbatched: {ratio:.2f} ({torch.get_num_threads()} threads, {system.device})")
        for service in services.values():
            service.close()


def untrained(folder: Path) -> Path:
    """A bundle with random weights, of the demo's size."""
    config = PRESETS["tiny"]
    torch.manual_seed(0)
    save_pretrained(VQVAE(config), folder / "vqvae")
    quantizer = config.quantizer
    sizes = {"codebook_size": quantizer.codebook_size, "code_dim": quantizer.code_dim, "scales": quantizer.scales}
    model = ARTransformer(preset("tiny", "text", context_dim=384, pooled_dim=384, **sizes))
    made_for = {
        "vqvae": digest(folder / "vqvae"),
        "encoder": "minilm",
        "encoder_weights": "",
        "encoder_id": encoder_id("minilm"),
    }
    save_pretrained(model, folder / "ar_text", extra=made_for)
    return folder


async def alone(service: ModelService, seed: int) -> tuple[float, float]:
    """Seconds to the first preview and to the end of a request without files."""
    began, first = time.perf_counter(), 0.0
    async for event in service.generate(Asked(text="a cup", seed=seed, formats=(), previews=True)):
        if isinstance(event, Scale) and event.scale == 1:
            first = time.perf_counter() - began
    return first, time.perf_counter() - began


async def throughput(service: ModelService, requests: int, clients: int) -> float:
    """Samples per second while `clients` requests wait."""
    numbers = iter(range(requests))

    async def client() -> None:
        for number in numbers:
            async for _ in service.generate(Asked(text="a cup", seed=number, formats=())):
                pass

    began = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(clients)])
    return requests / (time.perf_counter() - began)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
