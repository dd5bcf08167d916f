"""Work alone and beside busy programs, with threads that spin for a while when they wait and with threads that sleep.

    python benchmarks/bench_waiting.py [--model runs/demo] [--text "a red chair"] [--busy 2] [--rounds 2]

Runs `sar3d generate`, or without `--model` some products of the size that a turntable is made of, in processes of
its own, alone and beside `--busy` endless loops, in turn: with the waiting that OpenMP has by default, and with the one that
the commands set (`pipelines.WAITING`). Says seconds and processor seconds, the least of the rounds, and how many times as
long as alone each takes. Seconds mean something on a machine that has nothing else to do; processor seconds anywhere.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import WAITING

REPOSITORY = Path(__file__).resolve().parents[1]
# Where PyTorch is loaded before the programs, OpenMP does not see what they set.
STARTS = {"spinning": "import torch; ", "sleeping": ""}
_CALL = "from pipelines.cli import main; sys.exit(main())"
_PRODUCTS = """
import pipelines, time, torch
torch.set_num_threads(max(2, torch.get_num_threads()))
x, w = torch.randn(40_000, 64), torch.randn(64, 64)
def work(times):
    y = x
    for _ in range(times):
        y = torch.relu(y @ w) * 0.1
work(2)
began = time.perf_counter(), time.process_time()
work(60)
print(time.perf_counter() - began[0], time.process_time() - began[1])
"""
"""A pass of a field's MLP over the points of a picture: the threads meet after every operation."""


@dataclass(frozen=True)
class Run:
    """One generation."""

    seconds: float
    processor: float
    """Seconds of processor time."""


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", help="as for sar3d generate")
    parser.add_argument("--text", default="a red chair")
    parser.add_argument("--busy", type=int, default=2, help="endless loops beside it")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args(arguments)
    found: dict[tuple[str, int], list[Run]] = {}
    for _ in range(given.rounds):
        for busy in (0, given.busy):
            for name, start in STARTS.items():
                with loops(busy):
                    run = generated(start, given.model, given.text) if given.model else products(start)
                found.setdefault((name, busy), []).append(run)
    result: dict[str, float] = {}
    for name in STARTS:
        for busy in (0, given.busy):
            seconds = min(run.seconds for run in found[name, busy])
            processor = min(run.processor for run in found[name, busy])
            times = seconds / min(run.seconds for run in found[name, 0])
            result |= {f"{name}_{busy}_seconds": seconds, f"{name}_{busy}_processor": processor}
            log(
                f"{name}, beside {busy} loops: {seconds:.1f} s, {times:.2f} times as long as alone; {processor:.1f} s of "
                "processor time"
            )
    return result


def log(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def loops(count: int) -> Iterator[None]:
    """So many programs that never wait."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in busy:
            program.kill()
            program.wait()


def environment() -> dict[str, str]:
    """In which nobody has said how threads wait."""
    here = {name: value for name, value in os.environ.items() if name not in WAITING}
    return here | {"PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))}


def products(start: str) -> Run:
    """Small products in a process of its own, its start not counted."""
    command = [sys.executable, "-c", f"{start}\n{_PRODUCTS}"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return Run(*map(float, done.stdout.split()))


def generated(start: str, model: str, text: str) -> Run:
    """`sar3d generate` in a process of its own, its start included."""
    with tempfile.TemporaryDirectory() as out:
        words = ["generate", "--model", model, "--text", text, "--out", out, "--preset", "greedy", "--guidance", "0"]
        began = time.perf_counter()
        child = subprocess.Popen([sys.executable, "-c", f"import sys; {start}{_CALL}", *words], env=environment())
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"sar3d generate failed with exit code {child.returncode}")
    return Run(seconds, used.ru_utime + used.ru_stime)


if __name__ == "__main__":
    main()
