"""A training step of the transformer: dense, block-sparse and scale-by-scale attention, and activation checkpointing.

    python benchmarks/bench_ar_step.py [--preset d24] [--device cuda] [--precision bf16] [--batch 8] [--compile] [--quick]

A step is forward, cross-entropy and backward of random codes, without an optimizer. Plain is the boolean mask over all
pairs of tokens (`dense`). Says milliseconds, tokens per second, model FLOPs utilization (where the GPU's peak is known),
peak memory on a GPU, ratios against plain of medians taken in turn, and how far logits and gradients are from plain's.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sar3d.ar import PRESETS, ARConfig, ARTransformer
from sar3d.ar.attention import AttentionKind, best_attention
from sar3d.conditions.condition import Condition
from sar3d.errors import UserError
from sar3d.tasks.ar.flops import peak_flops, training_flops

CONDITION_TOKENS = {"image": 256, "text": 77}

Work = Callable[[], tuple[Tensor, list[Tensor]]]


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="tiny", choices=list(PRESETS))
    parser.add_argument("--condition", default="image", choices=list(CONDITION_TOKENS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--attention", nargs="+", default=None, choices=get_args(AttentionKind))
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    parser.add_argument("--checkpoint", action="store_true", help="compute activations twice")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; torch's own choice by default")
    parser.add_argument("--quick", action="store_true", help="a few seconds: a small model on 549 tokens")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    config = ARConfig(**dataclasses.asdict(PRESETS[given.preset]), condition=given.condition)
    if given.quick:
        config = dataclasses.replace(config, depth=2, width=96, codebook_size=256, scales=(1, 2, 3, 5, 12))
        given.repeats = 3
    model = made(config, device, given.compile, given.checkpoint)
    batch = inputs(config, given.batch, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    log(
        f"{name}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}; {given.preset}: "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {given.batch} × {config.tokens} tokens, "
        f"{given.precision}, condition of {CONDITION_TOKENS[given.condition]} tokens"
        f"{', compiled' if given.compile else ''}{', checkpointed' if given.checkpoint else ''}"
    )
    kinds: list[AttentionKind] = ["dense", *(k for k in given.attention or kinds_of(device) if k != "dense")]
    work = {kind: step(model, batch, kind, given.precision) for kind in kinds}
    result = differences(work, model)
    milliseconds, memory = timed(work, device, given.repeats)
    for kind, taken in milliseconds.items():
        result |= report(kind, taken, milliseconds["dense"], config, given, name, memory.get(kind))
    return result


def kinds_of(device: torch.device) -> list[AttentionKind]:
    """Those that can train on the device."""
    return ["dense", "scales", "flex"] if best_attention(device) == "flex" else ["dense", "scales"]


def made(config: ARConfig, device: torch.device, compiled: bool, checkpointed: bool) -> ARTransformer:
    """With gates that are open: as the published models start, attention would hardly matter for the gradients."""
    torch.manual_seed(0)
    with torch.device(device):
        model = ARTransformer(dataclasses.replace(config, gate_init=0.5))
    model.checkpoint_activations = checkpointed
    if compiled:
        for block in model.blocks:
            block.compile()
    return model


def inputs(config: ARConfig, batch: int, device: torch.device) -> tuple[Tensor, Condition, Tensor]:
    words = torch.randn(batch, config.tokens - config.lengths[0], config.code_dim, device=device)
    count = CONDITION_TOKENS[config.condition]
    condition = Condition(
        torch.randn(batch, count, config.context_dim, device=device),
        torch.randn(batch, config.pooled_dim, device=device),
    )
    return words, condition, torch.randint(config.codebook_size, (batch, config.tokens), device=device)


def step(model: ARTransformer, batch: tuple[Tensor, Condition, Tensor], kind: AttentionKind, precision: str) -> Work:
    """Logits and gradients of one step."""
    words, condition, codes = batch

    def run() -> tuple[Tensor, list[Tensor]]:
        model.attention = kind
        model.zero_grad()
        with torch.autocast(words.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = model(words, condition)
        F.cross_entropy(logits.flatten(0, 1), codes.flatten()).backward()
        return logits.detach(), [p.grad for p in model.parameters() if p.grad is not None]

    return run


def differences(work: dict[AttentionKind, Work], model: ARTransformer) -> dict[str, float]:
    """How far the others' logits and gradients are from plain's, as parts of their length; it also warms up."""
    plain, reference = work["dense"]()
    result = {}
    for kind in list(work)[1:]:
        logits, gradients = work[kind]()
        squares = sum(float((a - b).square().sum()) for a, b in zip(gradients, reference, strict=True))
        total = sum(float(b.square().sum()) for b in reference)
        result[f"{kind}_logits_difference"] = float((logits - plain).norm() / plain.norm())
        result[f"{kind}_gradient_difference"] = (squares / total) ** 0.5
    model.zero_grad()
    return result


def timed(
    work: dict[AttentionKind, Work], device: torch.device, repeats: int
) -> tuple[dict[AttentionKind, float], dict[AttentionKind, float]]:
    """Median milliseconds, and peak gigabytes on a GPU."""
    taken: dict[AttentionKind, list[float]] = {kind: [] for kind in work}
    memory: dict[AttentionKind, float] = {}
    for _ in range(repeats):
        for kind, run in work.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
                memory[kind] = torch.cuda.max_memory_allocated(device) / 1e9
            taken[kind].append(1e3 * (time.perf_counter() - start))
    return {kind: statistics.median(times) for kind, times in taken.items()}, memory


def report(
    kind: AttentionKind,
    milliseconds: float,
    plain: float,
    config: ARConfig,
    given: argparse.Namespace,
    device_name: str,
    gigabytes: float | None,
) -> dict[str, float]:
    """Says one line; returns its numbers."""
    rate = given.batch / milliseconds * 1e3
    flops = rate * training_flops(config, CONDITION_TOKENS[config.condition])
    peak = peak_flops(device_name, given.precision)
    result = {f"{kind}_ms": milliseconds, f"{kind}_tokens_per_second": rate * config.tokens, f"{kind}_flops": flops}
    line = f"{kind:>6}: {milliseconds:9.1f} ms, {rate * config.tokens:10.0f} tokens/s, {flops / 1e12:7.3f} TFLOP/s"
    if peak is not None:
        result[f"{kind}_mfu"] = flops / peak
        line += f", MFU {100 * flops / peak:.1f} %"
    if gigabytes is not None:
        result[f"{kind}_gigabytes"] = gigabytes
        line += f", {gigabytes:.1f} GB"
    if kind != "dense":
        result[f"{kind}_ratio"] = plain / milliseconds
        line += f", {plain / milliseconds:.2f} times as fast as dense"
    log(line)
    return result


def log(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
