"""One run on a machine with a GPU that has little else: speed of every heavy part, then training until the time is over.

    python benchmarks/gpu.py --prepare DIR               # on a CPU, with the whole package: what is trained on, below 50 MB
    python benchmarks/gpu.py --minutes 15 --out DIR --prepared DIR     # on the GPU

The second needs torch (2.11 or later), numpy, pyarrow, einops, jaxtyping, safetensors, Pillow and PyYAML; moderngl, where
it is there, draws fresh objects to train on. Parts run in order of value, each in a process of its own within its time box:
decoding and a training step of the largest published generator, quantizer, volume renderer, meshes, drawing, then the
tokenizer and the text generator of configs/small.yaml on the prepared objects. DIR gets gpu.json and gpu.md, rewritten
as results come, and pictures. A failure is recorded and the next part runs. `--ray` adds the training step through Ray
Train and DeepSpeed where they are installed. `--size tiny` runs everything in little on any machine.
"""

import argparse
import importlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from gpu_parts import Box, Part, PartReport, Setting, Values, run_part, say, write_results

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

LEAST_SECONDS = 5.0
"""A part with less than this is not started."""


def _later(module: str, name: str) -> Callable[[Box, Setting], None]:
    """A part's function, imported where it runs: what one part cannot import does not end the others."""

    def work(box: Box, setting: Setting) -> None:
        found: ModuleType = importlib.import_module(module)
        getattr(found, name)(box, setting)

    return work


PARTS = (
    Part("decode", "Decoding, d24", 22, _later("gpu_speed", "decoding")),
    Part("step", "Training step, d24", 18, _later("gpu_step", "training_step")),
    Part("quantizer", "Multi-scale quantizer", 3, _later("gpu_speed", "quantizer")),
    Part("volume", "Volume renderer", 5, _later("gpu_speed", "volume")),
    Part("meshes", "FlexiCubes and rasterizer", 4, _later("gpu_speed", "meshes")),
    Part("drawing", "Drawing through EGL", 8, _later("gpu_drawing", "drawing")),
    Part("tokenizer", "Tokenizer of configs/small.yaml on procedural objects", 24, _later("gpu_learning", "tokenizer")),
    Part("generator", "Text generator of configs/small.yaml", 16, _later("gpu_learning", "generator")),
)
RAY = Part("ray", "Training step, d24, through Ray Train and DeepSpeed", 10, _later("gpu_ray", "training_step"))


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    if given.prepare:
        from gpu_data import prepare

        return prepare(given.prepare, given.size)
    if given.out is None:
        sys.exit("what is to be done? Give --prepare DIR, or --out DIR with --minutes N and --prepared DIR")
    device = given.device or _device(given.size)
    if given.part:
        setting = Setting(device, given.size, given.prepared, given.out, given.work)
        part = next(p for p in (*PARTS, RAY) if p.name == given.part)
        return part.work(Box(_file(given.work, part), given.seconds, given.began), setting)
    given.out.mkdir(parents=True, exist_ok=True)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # the part that runs, in its own session, ends with this one
    with tempfile.TemporaryDirectory(prefix="sar3d-gpu-") as work:
        run(given, device, Path(work))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="make what is trained on, on a CPU")
    parser.add_argument("--minutes", type=float, default=15.0, help="of the whole run (default 15)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the results go")
    parser.add_argument("--prepared", type=Path, metavar="DIR", help="what --prepare made; without, nothing is learned")
    parser.add_argument("--ray", action="store_true", help="the training step through Ray Train and DeepSpeed, too")
    parser.add_argument("--only", nargs="+", choices=[p.name for p in PARTS], metavar="PART", help="these parts alone")
    parser.add_argument("--device", help="default: cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny: to see on a CPU that it runs")
    for name, kind in (
        ("part", str),
        ("seconds", float),
        ("began", float),
        ("work", Path),
    ):  # how a part's own process is called
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    return parser


def _device(size: str) -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if size == "full":
        sys.exit(
            "PyTorch finds no GPU here: run it where there is one, or give --size tiny to see that everything runs"
        )
    return "cpu"


def run(given: argparse.Namespace, device: str, work: Path) -> None:
    """All parts within the minutes."""
    deadline = time.monotonic() + 60 * given.minutes
    parts = [p for p in PARTS if given.only is None or p.name in given.only] + ([RAY] if given.ray else [])
    about = describe(device) | {"minutes": given.minutes, "size": given.size}
    reports: dict[str, PartReport] = {}
    for number, part in enumerate(parts):
        left = deadline - time.monotonic()
        reports[part.name] = report = PartReport(part.title, left * part.share / sum(p.share for p in parts[number:]))
        if report.box < LEAST_SECONDS:
            report.ended = "not run: no time was left"
            write_results(given.out, about, reports)
            continue
        say(f"--- {part.title}: {report.box:.0f} s")
        command = _command(given, device, part, report.box, work)
        run_part(command, _file(work, part), report, lambda: write_results(given.out, about, reports))
        say(f"--- {part.title}: {report.ended}, {report.seconds:.0f} s")


def _file(work: Path, part: Part) -> Path:
    return work / f"{part.name}.json"


def _command(given: argparse.Namespace, device: str, part: Part, seconds: float, work: Path) -> list[str]:
    prepared = ["--prepared", str(given.prepared.resolve())] if given.prepared else []
    return [
        *(sys.executable, str(Path(__file__).resolve()), "--part", part.name),
        *("--seconds", str(seconds), "--began", str(time.monotonic())),
        *("--work", str(work), "--out", str(given.out.resolve()), "--device", device, "--size", given.size, *prepared),
    ]


def describe(device: str) -> Values:
    """The machine, the versions and the time."""
    import torch

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    found: Values = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or "cpu",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "python": platform.python_version(),
        "processor cores": len(os.sched_getaffinity(0)),
        "commit": commit.stdout.strip() or "not in a repository",
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(0)
        found["GPU memory"] = (
            f"{properties.total_memory / 2**30:.0f} GiB, {properties.multi_processor_count} multiprocessors"
        )
    return found


if __name__ == "__main__":
    main()
