"""The parts of a run of `gpu.py`: each a process of its own within its time box, its results written as they come."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Size = Literal["full", "tiny"]
Values = dict[str, Any]
"""Names to numbers, words or lists of numbers."""

_LONGEST = 300
"""Characters of an error that are kept."""


@dataclass(frozen=True)
class Setting:
    """What a part is to know."""

    device: str
    size: Size
    prepared: Path | None
    """Folder of `--prepare`; None where none was given."""
    out: Path
    """Where pictures go."""
    work: Path
    """What parts leave to each other; gone at the end."""

    @property
    def tiny(self) -> bool:
        return self.size == "tiny"


@dataclass
class Box:
    """The time and the results of one part, in its own process."""

    file: Path
    seconds: float
    began: float
    """By the machine's monotonic clock, when its process was started."""
    results: dict[str, Values] = field(default_factory=dict)

    def left(self) -> float:
        """Seconds until the part is killed."""
        return self.seconds - (time.monotonic() - self.began)

    def record(self, name: str, values: Values) -> None:
        """Keep what one measurement found, also if the next one never ends."""
        self.results.setdefault(name, {}).update(values)
        write_whole(self.file, json.dumps(self.results))

    def attempt(self, name: str, work: Callable[[], Values], needs: float = 0.0) -> bool:
        """One measurement; whether it succeeded. A failure, or `needs` of more seconds than are left, is recorded."""
        if self.left() < needs:
            self.record(name, {"not measured": f"{self.left():.0f} s were left, and it needs about {needs:.0f}"})
            return False
        say(f"{name} ({self.left():.0f} s left)")
        began = time.monotonic()
        try:
            values = work()
        except Exception as error:
            traceback.print_exc()
            self.record(name, {"failed": failure(error)})
            return False
        finally:
            release()
        self.record(name, values | {"took_seconds": time.monotonic() - began})
        return True


def failure(error: BaseException) -> str:
    """In one line."""
    name = "out of memory" if type(error).__name__ == "OutOfMemoryError" else type(error).__name__
    return f"{name}: {' '.join(str(error).split())[:_LONGEST]}"


def release() -> None:
    """Give back the memory that a measurement, or its failure, held."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def write_whole(file: Path, text: str) -> None:
    """Replace a file in one step, so that none is ever half written."""
    new = file.with_name(f".{file.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(file)


@dataclass(frozen=True)
class Part:
    """One part of the run."""

    name: str
    title: str
    share: float
    """Of the time that is left, in proportion to the shares of the parts after it: what a part saves, they get."""
    work: Callable[[Box, Setting], None]


@dataclass
class PartReport:
    """What became of a part."""

    title: str
    box: float
    """Seconds it was given."""
    seconds: float = 0.0
    ended: str = "running"
    """`done`, or how it ended otherwise."""
    results: dict[str, Values] = field(default_factory=dict)


def run_part(command: list[str], file: Path, report: PartReport, update: Callable[[], None]) -> None:
    """Run a part by this command, and kill it at the end of its box. `update` is called as its results come in `file`."""
    began = time.monotonic()
    child = subprocess.Popen(command, start_new_session=True)
    try:
        while child.poll() is None and time.monotonic() - began < report.box:
            report.seconds = time.monotonic() - began
            if _take(file, report):
                update()
            time.sleep(0.2)
        overdue = child.poll() is None
    finally:
        # The process that was started, with what it started itself: compilers, drawing processes.
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    report.seconds = time.monotonic() - began
    _take(file, report)
    if overdue:
        report.ended = f"stopped at the end of its {report.box:.0f} s"
    elif child.returncode:
        report.ended = f"failed with exit code {child.returncode}"
    else:
        report.ended = "done"
    update()


def _take(file: Path, report: PartReport) -> bool:
    """Read what the part has written; whether there is more than before."""
    if not file.exists():
        return False
    found = json.loads(file.read_text(encoding="utf-8"))
    new = found != report.results
    report.results = found
    return bool(new)


def write_results(out: Path, about: Values, reports: dict[str, PartReport]) -> None:
    """`gpu.json` and `gpu.md`."""
    parts = {
        name: {"title": r.title, "box_seconds": r.box, "seconds": r.seconds, "ended": r.ended, "results": r.results}
        for name, r in reports.items()
    }
    write_whole(out / "gpu.json", json.dumps({"about": about, "parts": parts}, indent=1) + "\n")
    lines = ["# GPU benchmarks", "", *(f"* {name}: {value}" for name, value in about.items())]
    for report in reports.values():
        lines += ["", f"## {report.title}", "", f"{report.ended}: {report.seconds:.0f} s of {report.box:.0f} s.", ""]
        lines += [f"* **{name}**: {words(values)}" for name, values in report.results.items()]
    write_whole(out / "gpu.md", "\n".join(lines) + "\n")


def words(values: Values) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {_written(value)}" for name, value in values.items())


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(_written(item) for item in value)
    return str(value)
