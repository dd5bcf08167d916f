"""The multi-scale quantizer against the plain way: all similarities of a scale at once, resampling by the library.

    python benchmarks/bench_quantizer.py [--device cuda] [--batch 64] [--codes 16384] [--quick]

Encodes latents of `--batch` objects, and trains on `--training-batch` of them (forward and backward), both ways in
turn. Says the ratio of times, the peak memory of each, and whether the tokens are equal.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring import peak_memory

from sar3d.vqvae.config import PLANES, QuantizerConfig
from sar3d.vqvae.quantizer import MultiScaleQuantizer


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--training-batch", type=int, default=8)
    parser.add_argument("--codes", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; torch's own choice by default")
    parser.add_argument("--quick", action="store_true", help="a few seconds: 2 objects, 2048 codes")
    given = parser.parse_args(arguments)
    if given.quick:
        given.batch, given.training_batch, given.codes, given.repeats = 2, 2, 2048, 2
    if given.threads:
        torch.set_num_threads(given.threads)
    return compare(given.device, given.batch, given.training_batch, given.codes, given.repeats)


def compare(device: str, batch: int, training_batch: int, codes: int, repeats: int) -> dict[str, float]:
    torch.manual_seed(0)
    quantizer = MultiScaleQuantizer(QuantizerConfig(codebook_size=codes)).to(device)
    f = latents(batch, quantizer.config).to(device)
    log(f"{device}, {torch.get_num_threads()} CPU threads, {codes} codes, torch {torch.__version__}")
    result = {}

    quantizer.eval()
    fast, plain = race(device, repeats, lambda: quantizer.encode_with_f_hat(f), lambda: plain_encoding(quantizer, f))
    tokens, plain_tokens = torch.cat(fast.value[0], 1), torch.cat(plain.value[0], 1)
    result["equal"] = (tokens == plain_tokens).float().mean().item()
    result["encode_ratio"] = plain.seconds / fast.seconds
    result["fast_mb"], result["plain_mb"] = fast.megabytes, plain.megabytes
    log(f"encode {batch} objects: {describe(fast, plain)}; {100 * result['equal']:.4f} % of the tokens equal")

    quantizer.train()
    part = f[: PLANES * training_batch]
    fast, plain = race(device, repeats, lambda: fast_training(quantizer, part), lambda: plain_training(quantizer, part))
    result["training_ratio"] = plain.seconds / fast.seconds
    result["gradient_difference"] = (fast.value - plain.value).abs().max().item() / plain.value.abs().max().item()
    log(
        f"train on {training_batch} objects: {describe(fast, plain)}; "
        f"gradients differ by {result['gradient_difference']:.1e} of the largest"
    )
    return result


def latents(objects: int, config: QuantizerConfig) -> Tensor:
    """Smooth and rough parts, as latents have."""
    side = config.scales[-1]
    parts = [
        F.interpolate(torch.randn(objects * PLANES, config.code_dim, n, n), (side, side), mode="bicubic")
        for n in (1, 3, 6, side)
    ]
    return torch.stack(parts).sum(0)


@torch.no_grad()
def plain_encoding(quantizer: MultiScaleQuantizer, f: Tensor) -> tuple[list[Tensor], Tensor]:
    return plain_pyramid(quantizer, f)[:2]


def plain_pyramid(quantizer: MultiScaleQuantizer, f: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """Tokens, f̂ and loss with plain operations and the whole similarity matrix of each scale (published.md, quantizer)."""
    config = quantizer.config
    f_hat, residual, loss, tokens = torch.zeros_like(f), f.detach().clone(), f.new_zeros(()), []
    for scale, n in enumerate(config.scales):
        last = scale == len(config.scales) - 1
        pooled = residual if last else F.interpolate(residual, (n, n), mode="area")
        queries = F.normalize(rearrange(pooled, "r d h w -> (r h w) d"), dim=-1)
        unit = F.normalize(quantizer.codebook, dim=-1)
        found = (queries @ unit.detach().t()).argmax(1).view(len(f), n * n)
        planes = rearrange(F.embedding(found, unit), "r (h w) d -> r d h w", h=n)
        if not last:
            planes = F.interpolate(planes, (quantizer.side, quantizer.side), mode="bicubic")
        phi = quantizer.phi[quantizer.phi_of_scale[scale]]
        contribution = planes * (1 - config.phi_ratio) + phi(planes) * config.phi_ratio
        f_hat = f_hat + contribution
        residual = residual - contribution.detach()
        loss = loss + config.beta * F.mse_loss(f_hat.detach(), f) + F.mse_loss(f_hat, f.detach())
        tokens.append(found)
    return tokens, f_hat, loss / len(config.scales)


def fast_training(quantizer: MultiScaleQuantizer, f: Tensor) -> Tensor:
    quantizer.zero_grad()
    quantizer(f).loss.backward()
    return gradient(quantizer)


def plain_training(quantizer: MultiScaleQuantizer, f: Tensor) -> Tensor:
    """With the counts of hits by one-hot vectors left out: they are not the search."""
    quantizer.zero_grad()
    plain_pyramid(quantizer, f)[2].backward()
    return gradient(quantizer)


def gradient(quantizer: MultiScaleQuantizer) -> Tensor:
    assert quantizer.codebook.grad is not None
    return quantizer.codebook.grad.clone()


@dataclass
class Timing:
    """Of one way: the best time of several, the peak of memory above the start, and what the call gave."""

    seconds: float = float("inf")
    megabytes: float = 0.0
    value: Any = None


def race(device: str, repeats: int, *ways: Callable[[], object]) -> list[Timing]:
    """Time the ways in turn, so that a busy machine slows both; memory is watched in a first, untimed call."""
    timings = [Timing(megabytes=peak_memory(device, way)[1]) for way in ways]
    for _ in range(repeats):
        for way, timing in zip(ways, timings, strict=True):
            start = time.perf_counter()
            timing.value = way()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            timing.seconds = min(timing.seconds, time.perf_counter() - start)
    return timings


def describe(fast: Timing, plain: Timing) -> str:
    return (
        f"plain {plain.seconds * 1e3:.1f} ms, {plain.megabytes:.0f} MB; "
        f"ours {fast.seconds * 1e3:.1f} ms, {fast.megabytes:.0f} MB; {plain.seconds / fast.seconds:.2f}x as fast"
    )


def log(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
