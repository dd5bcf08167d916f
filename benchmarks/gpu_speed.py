"""Parts of `gpu.py`: decoding, quantizer, volume renderer and meshes, by the benchmarks of these."""

import dataclasses
from functools import partial

import bench_decode
import bench_flexicubes
import bench_quantizer
import bench_volume
import torch
from gpu_parts import Box, Setting, Values
from gpu_step import TINY

from sar3d.ar.sampling import DECODINGS, generate, generate_plain
from sar3d.ar.transformer import ARTransformer
from sar3d.vqvae.config import PRESETS
from sar3d.vqvae.quantizer import MultiScaleQuantizer


def decoding(box: Box, setting: Setting) -> None:
    """Fast against plain decoding: seconds, by scale, and equal tokens."""
    # Every batch size and precision compiles the blocks anew; beyond the default of 8 they would run uncompiled.
    torch._dynamo.config.recompile_limit = 64
    name, vqvae, batches = "d24", PRESETS["paper"], (1, 16)
    if setting.tiny:
        name, vqvae, batches = "tiny", dataclasses.replace(PRESETS["tiny"], quantizer=TINY), (1, 2)
    model, quantizer, triplane = bench_decode.parts(name, "image", vqvae, setting.device, 0)

    def measured(precision: str, batch: int) -> Values:
        prompts = tuple(bench_decode.conditions("image", count, setting.device) for count in (batch, 1))
        repeats = 1 if setting.tiny else 5 if precision == "bf16" else 3
        found = bench_decode.compare(model, quantizer, triplane, prompts, "released", precision, repeats)
        scales = range(len(vqvae.quantizer.scales))
        by_scale = {
            f"{way}_ms_by_scale": [found.pop(f"{way}_ms_scale_{i}") for i in scales] for way in ("fast", "plain")
        }
        return {**found, **by_scale}

    for precision, batch in ((p, b) for p in ("bf16", "fp32") for b in batches):
        needs = 0.0 if setting.tiny else 15.0
        box.attempt(f"{name} {precision} batch {batch}", partial(measured, precision, batch), needs)
    box.attempt(f"{name} fp32 batch 1, not compiled", partial(uncompiled, model, quantizer, setting.device))


def uncompiled(model: ARTransformer, quantizer: MultiScaleQuantizer, device: str) -> Values:
    """Share of equal tokens where compiled kernels do not round differently."""
    prompts = [bench_decode.conditions("image", 1, device) for _ in range(2)]
    fast, plain = (
        way(model, quantizer, *prompts, [0], DECODINGS["released"], precision="fp32")
        for way in (generate, generate_plain)
    )
    return {"equal": (fast.tokens == plain.tokens).float().mean().item()}


def quantizer(box: Box, setting: Setting) -> None:
    """Encoding and training, against all similarities at once."""
    sizes = (2, 2, 512, 1) if setting.tiny else (64, 8, 16384, 5)
    # The plain way follows the library's default for convolutions, TF32, unless it is told otherwise.
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    box.attempt(f"{sizes[0]} objects, {sizes[2]} codes", partial(bench_quantizer.compare, setting.device, *sizes))


def volume(box: Box, setting: Setting) -> None:
    """One picture with empty space skipped, and a training step's rays."""
    options = ["--quick"] if setting.tiny else ["--repeats", "5"]
    box.attempt("against the plain march", partial(bench_volume.main, ["--device", setting.device, *options]))


def meshes(box: Box, setting: Setting) -> None:
    """Extraction and rasterizer, forward and backward."""
    options = ["--quick"] if setting.tiny else []
    box.attempt("against plain extraction", partial(bench_flexicubes.main, ["--device", setting.device, *options]))
