"""A part of `gpu.py`: whole training steps of the largest published generator, with optimizer and moving average."""

import statistics
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import bench_ar_step
import torch
from gpu_parts import Box, Setting, Values
from measuring import synchronize

from sar3d.ar.attention import AttentionKind, best_attention
from sar3d.ar.blocks import Block
from sar3d.ar.config import ARConfig
from sar3d.conditions.condition import Condition
from sar3d.tasks.ar.config import ARTaskConfig, model_config
from sar3d.tasks.ar.task import ARBatch, ARTask, EncoderSource
from sar3d.training.fit import start
from sar3d.training.settings import OptimizerSettings, TrainSettings
from sar3d.training.step import State, train_step
from sar3d.vqvae.config import DecoderConfig, EncoderConfig, QuantizerConfig, VQVAEConfig
from sar3d.vqvae.model import VQVAE

TINY = QuantizerConfig(codebook_size=256, scales=(1, 2, 3, 4))
"""Of the tokens in `--size tiny`."""
CONDITION_TOKENS, CONDITION_WIDTH = 256, 1024
"""Of the features of a picture."""
_SECONDS = 8.0
"""Of steps that are timed together, at most."""


@dataclass(frozen=True)
class RandomVQVAE:
    """Stands in for the frozen tokenizer, of which a step needs the quantizer alone; picklable."""

    config: VQVAEConfig

    def load(self, device: torch.device | str) -> VQVAE:
        return VQVAE(self.config).to(device).requires_grad_(False)


def random_task(preset: str, quantizer: QuantizerConfig) -> ARTask:
    """The task of a generator of random tokens, prompted by pictures."""
    small = VQVAEConfig(
        encoder=EncoderConfig(channels=32, multipliers=(1,), blocks=1, attention_width=32, attention_heads=1),
        quantizer=quantizer,
        decoder=DecoderConfig(width=32, depth=1, heads=1, multipliers=(1,), blocks=1),
    )
    config = ARTaskConfig(preset=cast(Any, preset))
    shape = model_config(config, "image", small, CONDITION_WIDTH, CONDITION_WIDTH)
    empty = Condition(torch.zeros(1, CONDITION_TOKENS, CONDITION_WIDTH), torch.zeros(1, CONDITION_WIDTH))
    return ARTask(config, shape, cast(Any, RandomVQVAE(small)), EncoderSource("dinov2", "", "random"), empty)


def settings_of(batch: int, precision: str) -> TrainSettings:
    optimizer = OptimizerSettings(betas=(0.9, 0.95), clip=2.0)
    return TrainSettings(steps=1_000_000, batch=batch, precision=cast(Any, precision), optimizer=optimizer)


def batch_of(config: ARConfig, count: int, pin: bool) -> ARBatch:
    """A micro-batch as it comes from the loader."""
    made = ARBatch(
        tokens=torch.randint(config.codebook_size, (count, config.tokens)),
        condition=torch.randn(count, CONDITION_TOKENS, CONDITION_WIDTH).half(),
        pooled=torch.randn(count, CONDITION_WIDTH).half(),
        drop=torch.rand(count, config.depth, 3),
    )
    return ARBatch(*(t.pin_memory() for t in vars(made).values())) if pin else made


def training_step(box: Box, setting: Setting) -> None:
    """Attention kinds, compiled and not, and batch sizes."""
    name, quantizer = ("tiny", TINY) if setting.tiny else ("d24", QuantizerConfig())
    task = random_task(name, quantizer)
    with torch.device(setting.device):  # a billion weights are drawn on the device
        state = start(task, settings_of(1, "bf16"), setting.device)
    best = best_attention(torch.device(setting.device))
    variants: list[tuple[AttentionKind, bool, int]] = [(best, False, 1), ("scales", False, 2), ("dense", False, 1)]
    if not setting.tiny:
        variants = [
            *((best, False, 4), (best, True, 4), (best, True, 8)),
            *(("scales", True, 4), ("dense", True, 4), (best, True, 16)),
        ]
    for kind, compiled, batch in variants:
        label = f"{name} bf16 batch {batch}, {kind}{', compiled' if compiled else ''}"
        box.attempt(label, partial(measured, state, kind, compiled, batch), 0.0 if setting.tiny else 15.0)
    box.attempt("attention kinds against dense, batch 1", partial(agreement, state, setting.device))


def measured(state: State, kind: AttentionKind, compiled: bool, batch: int) -> Values:
    """Steps of one kind: milliseconds, tokens per second, utilization, memory."""
    task, device = state.task, state.device
    assert isinstance(task, ARTask)
    state.model.attention = kind  # type: ignore[assignment]
    compile_blocks(state.model, compiled)
    state.model.zero_grad()  # of an attempt that ran out of memory
    on_gpu = device.type == "cuda"
    host = batch_of(task.model_config, batch, on_gpu)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = step_seconds(state, host)
    first, usual = seconds[0], statistics.median(seconds[2:])
    found = {"step_ms": 1e3 * usual, "steps": len(seconds) - 2, "first_step_seconds": first}
    found |= task.speed(batch / usual, state.settings, device, 1)
    if on_gpu:
        found["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return found


def step_seconds(state: State, host: ARBatch) -> list[float]:
    """Of each step: the first one compiles, the second one still warms up."""
    seconds: list[float] = []
    while len(seconds) < 4 or (sum(seconds[2:]) < _SECONDS and len(seconds) < 12):
        synchronize(state.device)
        began = time.perf_counter()
        _, metrics = train_step(state, [host])
        synchronize(state.device)
        seconds.append(time.perf_counter() - began)
    if not all(torch.isfinite(torch.as_tensor(value)) for value in metrics.values()):
        raise ArithmeticError(f"the step gave numbers that are not finite: {metrics}")
    return seconds


def compile_blocks(model: torch.nn.Module, compiled: bool) -> None:
    for block in cast(Any, model).blocks:
        assert isinstance(block, Block)
        block._compiled_call_impl = None
        if compiled:
            block.compile()


def agreement(state: State, device: str) -> Values:
    """How far logits and gradients of the kinds of attention are from those with a dense mask, uncompiled."""
    model = cast(Any, state.model)
    compile_blocks(model, False)
    inputs = bench_ar_step.inputs(model.config, 1, torch.device(device))
    kinds = bench_ar_step.kinds_of(torch.device(device))
    work = {kind: bench_ar_step.step(model, inputs, kind, "bf16") for kind in kinds}
    return bench_ar_step.differences(work, model)
