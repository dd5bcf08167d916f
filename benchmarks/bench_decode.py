"""Generation of tokens: fast against plain decoding, by scale, with the triplane that follows.

    python benchmarks/bench_decode.py [--preset d16] [--device cuda] [--precision bf16] [--batch 1 16] [--quick]

Weights and conditions are random; neither time nor memory depends on them. Plain is the decoding that concatenates keys
and values, computes what depends on the condition at every scale and sorts all codes. Both run in turn at equal
precision; times are medians after a first generation, which on a GPU compiles and records graphs. Memory is
what the first generation takes beyond the model (and, in bf16, the decoder's own weights): on the CPU resident, fast
first, so that memory which the allocator keeps counts against it. On the CPU the ratio is also given in processor
seconds, which other programs disturb less.

Run on two CPU cores at d16. Nothing has been run on a GPU: the times for d24 there are still to be measured.
"""

import argparse
import dataclasses
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring import peak_memory, seconds_of, synchronize

from sar3d.ar.cache import KeyValueCache
from sar3d.ar.config import preset
from sar3d.ar.generated import DecodedScale, computing_in
from sar3d.ar.sampling import DECODINGS, Decoder, Generated, Precision, generate_plain
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions.condition import Condition
from sar3d.vqvae.config import PRESETS as VQVAE_PRESETS
from sar3d.vqvae.config import VQVAEConfig
from sar3d.vqvae.decoder import TriplaneDecoder
from sar3d.vqvae.quantizer import MultiScaleQuantizer

TOKENS = {"image": 256, "text": 77}
WIDTHS = {"image": 1024, "text": 768}


Way = Callable[..., Generated]


@dataclass(frozen=True)
class Run:
    """One generation."""

    seconds: float
    processor: float
    """Processor seconds, on the CPU."""
    scales: list[float]
    """Seconds of each scale, the first with what is prepared for all."""


@dataclass
class Measured:
    """One way's generations."""

    megabytes: float
    """At most held during the first generation beyond what was held before it."""
    result: Generated
    runs: list[Run] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return statistics.median(run.seconds for run in self.runs)

    @property
    def processor(self) -> float:
        return statistics.median(run.processor for run in self.runs)

    @property
    def scales(self) -> list[float]:
        return [statistics.median(column) for column in zip(*(run.scales for run in self.runs), strict=True)]


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", help="of the transformer; d24 on a GPU, d16 on the CPU")
    parser.add_argument("--condition", default="image", choices=sorted(TOKENS))
    parser.add_argument("--vqvae", default="paper", choices=sorted(VQVAE_PRESETS))
    parser.add_argument("--decoding", default="released", choices=sorted(DECODINGS))
    parser.add_argument("--sequential", type=int, default=0, help="the coarsest so many scales token by token")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--repeats", type=int, help="20 on a GPU, 1 on the CPU")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; torch's own choice by default")
    parser.add_argument("--quick", action="store_true", help="a few seconds: tiny models, fp32 and bf16")
    given = parser.parse_args(arguments)
    on_gpu = torch.device(given.device).type == "cuda"
    if given.quick:
        given.preset, given.vqvae, given.precision, given.repeats = "tiny", "tiny", ["fp32", "bf16"], 1
    if given.threads:
        torch.set_num_threads(given.threads)
    name, repeats = given.preset or ("d24" if on_gpu else "d16"), given.repeats or (20 if on_gpu else 1)
    vqvae = VQVAE_PRESETS[given.vqvae]
    log(f"{name}, {given.condition}, {given.device}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}")
    model, quantizer, triplane = parts(name, given.condition, vqvae, given.device, given.sequential)
    result: dict[str, float] = {}
    for precision in given.precision:
        for batch in given.batch:
            prompts = conditions(given.condition, batch, given.device), conditions(given.condition, 1, given.device)
            found = compare(model, quantizer, triplane, prompts, given.decoding, precision, repeats)
            result |= {f"{key}_{precision}_{batch}": value for key, value in found.items()}
    return result


def log(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def parts(
    name: str, condition: str, vqvae: VQVAEConfig, device: str, sequential: int
) -> tuple[ARTransformer, MultiScaleQuantizer, TriplaneDecoder]:
    """Random transformer, quantizer and triplane decoder."""
    codes, width = vqvae.quantizer, WIDTHS[condition]
    config = preset(
        name,
        "text" if condition == "text" else "image",
        codebook_size=codes.codebook_size,
        code_dim=codes.code_dim,
        scales=codes.scales,
        context_dim=width,
        pooled_dim=width,
    )
    with torch.device("meta"):
        empty = ARTransformer(dataclasses.replace(config, sequential_scales=sequential))
    quantizer = MultiScaleQuantizer(codes).to(device).requires_grad_(False)
    triplane = TriplaneDecoder(vqvae.decoder, codes.code_dim, vqvae.side).to(device).requires_grad_(False)
    return filled(empty.to_empty(device=device)), quantizer, triplane


@torch.no_grad()
def filled(model: ARTransformer) -> ARTransformer:
    """Repeats a million normal numbers: a billion would take half a minute to draw."""
    numbers = torch.randn(1 << 20, device=model.start_embed.device) * 0.02
    for parameter in model.parameters():
        flat = parameter.view(-1)
        flat.copy_(numbers.repeat(-(-len(flat) // len(numbers)))[: len(flat)])
    return model.requires_grad_(False)


def conditions(kind: str, batch: int, device: str) -> Condition:
    tokens, width = TOKENS[kind], WIDTHS[kind]
    return Condition(torch.randn(batch, tokens, width, device=device), torch.randn(batch, width, device=device))


def compare(
    model: ARTransformer,
    quantizer: MultiScaleQuantizer,
    triplane: nn.Module,
    prompts: tuple[Condition, Condition],
    name: str,
    precision: str,
    repeats: int,
) -> dict[str, float]:
    device, decoding, batch = model.start_embed.device, DECODINGS[name], len(prompts[0])
    seeds = list(range(batch))
    exact: Precision = "bf16" if precision == "bf16" else "fp32"
    decoder = Decoder(model, quantizer, precision=exact)
    ways = {
        "fast": partial(decoder.generate, *prompts, seeds, decoding),
        "plain": partial(generate_plain, model, quantizer, *prompts, seeds, decoding, precision=exact),
    }
    found = race(device, ways, repeats)
    fast, plain = found["fast"], found["plain"]
    to_planes = partial(planes, triplane, fast.result.f_hat, decoder.dtype)
    to_planes()
    planes_seconds = statistics.median(seconds_of(device, to_planes) for _ in range(repeats))
    cache = KeyValueCache(model.config, 2 * batch, decoder.dtype, torch.device("meta")).bytes
    concatenated = 4 * batch * model.config.tokens * model.config.width * model.config.depth * decoder.dtype.itemsize
    result = {
        "ratio": plain.seconds / fast.seconds,
        "processor_ratio": plain.processor / fast.processor,
        "seconds": fast.seconds,
        "with_triplane": fast.seconds + planes_seconds,
        "per_second": batch / (fast.seconds + planes_seconds),
        "cache_ratio": cache / concatenated,
        "memory_ratio": fast.megabytes / plain.megabytes,
        "equal": (fast.result.tokens == plain.result.tokens).float().mean().item(),
    }
    log(
        f"{precision}, batch {batch}: plain {plain.seconds:.3f} s, fast {fast.seconds:.3f} s, {result['ratio']:.2f} times "
        f"as fast as plain ({result['processor_ratio']:.2f} in processor seconds); triplane {planes_seconds:.3f} s; "
        f"together {result['with_triplane']:.3f} s, {result['per_second']:.2f} objects/s; "
        f"{100 * result['equal']:.2f} % of the tokens equal"
    )
    log(
        f"  keys and values {cache / 1e6:.0f} MB, {100 * result['cache_ratio']:.0f} % of the concatenated "
        f"{concatenated / 1e6:.0f} MB; all memory {fast.megabytes:.0f} MB, {100 * result['memory_ratio']:.0f} % of plain's "
        f"{plain.megabytes:.0f} MB"
    )
    for way, one in found.items():
        log(f"  {way:5} ms by scale: " + " ".join(f"{1e3 * seconds:.1f}" for seconds in one.scales))
        result |= {f"{way}_ms_scale_{i}": 1e3 * seconds for i, seconds in enumerate(one.scales)}
    return result


def planes(triplane: nn.Module, f_hat: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.no_grad(), computing_in(dtype, f_hat.device):
        made: Tensor = triplane(f_hat)
    return made


def race(device: torch.device, ways: Mapping[str, Way], repeats: int) -> dict[str, Measured]:
    """Every way in turn, after a first time that takes its memory, compiles and records."""
    found = {}
    for name, way in ways.items():
        start = time.perf_counter()
        result, megabytes = peak_memory(device, way)
        log(f"  {name}: the first generation took {time.perf_counter() - start:.1f} s")
        found[name] = Measured(megabytes, result)
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].runs.append(timed(device, way))
    return found


def timed(device: torch.device, way: Way) -> Run:
    """One generation, without waiting for the device in between."""
    moments: list[float] = []
    events: list[torch.cuda.Event] = []

    def mark(_: DecodedScale | None) -> None:
        if device.type == "cuda":
            events.append(torch.cuda.Event(enable_timing=True))
            events[-1].record()
        else:
            moments.append(time.perf_counter())

    synchronize(device)
    start = time.perf_counter(), time.process_time()
    mark(None)
    way(on_scale=mark)
    synchronize(device)
    seconds, processor = time.perf_counter() - start[0], time.process_time() - start[1]
    scales = [before.elapsed_time(after) / 1e3 for before, after in itertools.pairwise(events)]
    return Run(seconds, processor, scales or [after - before for before, after in itertools.pairwise(moments)])


if __name__ == "__main__":
    main()
