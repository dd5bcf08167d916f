"""The GPU script: time boxes, failures that end nothing, and all parts in little on a machine with few packages."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gpu
import pytest
from gpu_parts import Box, PartReport, run_part, words, write_results

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]


def ended(tmp_path: Path, program: str, seconds: float = 30.0) -> PartReport:
    """The report on a part that is this program."""
    report = PartReport("A part", seconds)
    run_part([sys.executable, "-c", program], tmp_path / "part.json", report, lambda: None)
    return report


class TestParts:
    def test_a_part_that_hangs_is_stopped_and_what_it_found_is_kept(self, tmp_path: Path) -> None:
        file = tmp_path / "part.json"
        program = f"open({str(file)!r}, 'w').write('{{\"speed\": {{\"ms\": 3}}}}'); import time; time.sleep(60)"
        began = time.monotonic()
        report = ended(tmp_path, program, seconds=1.0)
        assert time.monotonic() - began < 20
        assert report.ended == "stopped at the end of its 1 s"
        assert report.results == {"speed": {"ms": 3}}

    def test_a_part_that_crashes_is_reported(self, tmp_path: Path) -> None:
        assert ended(tmp_path, "import os; os.abort()").ended == "failed with exit code -6"

    def test_a_failed_measurement_is_recorded_and_the_next_one_runs(self, tmp_path: Path) -> None:
        box = Box(tmp_path / "part.json", 100.0, time.monotonic())

        class OutOfMemoryError(RuntimeError):
            pass

        def fails() -> dict[str, float]:
            raise OutOfMemoryError("CUDA out of memory.\n  Tried to allocate 3 GiB")

        assert not box.attempt("large", fails)
        assert box.attempt("small", lambda: {"ms": 2.0})
        assert not box.attempt("late", lambda: {"ms": 2.0}, needs=1000.0)
        written = json.loads(box.file.read_text())
        assert written["large"] == {"failed": "out of memory: CUDA out of memory. Tried to allocate 3 GiB"}
        assert written["small"]["ms"] == 2.0
        assert "not measured" in written["late"]

    def test_results_are_written_as_json_and_as_text(self, tmp_path: Path) -> None:
        report = PartReport("Decoding", 10.0, 2.0, "done", {"d24": {"ms": 1.23456, "by_scale": [1.0, 2.5]}})
        write_results(tmp_path, {"device": "a GPU"}, {"decode": report})
        assert json.loads((tmp_path / "gpu.json").read_text())["parts"]["decode"]["results"] == report.results
        text = (tmp_path / "gpu.md").read_text()
        assert "* device: a GPU" in text
        assert f"* **d24**: {words(report.results['d24'])}" in text
        assert "ms 1.235; by scale 1 2.5" in text

    def test_what_a_part_saves_goes_to_those_after_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        boxes: list[float] = []
        monkeypatch.setattr(gpu, "run_part", lambda command, file, report, update: boxes.append(report.box))
        given = gpu._parser().parse_args(["--minutes", "10", "--out", str(tmp_path), "--size", "tiny"])
        gpu.run(given, "cpu", tmp_path)
        assert len(boxes) == len(gpu.PARTS)
        assert boxes[-1] == pytest.approx(600, abs=5)  # nobody before it has used any time


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `--prepare` makes, in little."""
    folder = tmp_path_factory.mktemp("prepared")
    run_script(["--prepare", str(folder), "--size", "tiny"], os.environ["PATH"])
    return folder


def run_script(words: list[str], path: str, bare: Path | None = None, timeout: float = 500) -> str:
    """Its output."""
    folders = [str(bare)] if bare is not None else []
    environment = {"PATH": path, "PYTHONPATH": os.pathsep.join([*folders, str(REPOSITORY)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "gpu.py"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that, in PYTHONPATH, hides all packages but those the script may use."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, str(HERE / "bare_machine.py"), str(folder)], check=True)
    return folder


def test_all_it_imports_is_there_on_a_bare_machine(bare: Path) -> None:
    modules = ["gpu", "gpu_speed", "gpu_step", "gpu_drawing", "gpu_learning", "gpu_ray"]
    program = (
        f"import {', '.join(modules)}, importlib.util as u\n"
        "hidden = [n for n in ('ray', 'deepspeed', 'mlflow', 'pydantic', 'zlib_ng', 'trimesh', 'scipy') if u.find_spec(n)]\n"
        "assert not hidden, hidden"
    )
    folders = [str(bare), str(REPOSITORY / "benchmarks"), str(REPOSITORY)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_everything_runs_in_little_on_a_bare_machine(bare: Path, prepared: Path, tmp_path: Path) -> None:
    assert sum(file.stat().st_size for file in prepared.iterdir()) < 5_000_000
    words = [
        "--minutes",
        "20",
        "--size",
        "tiny",
        "--device",
        "cpu",
        "--prepared",
        str(prepared),
        "--out",
        str(tmp_path),
    ]
    run_script([*words, "--ray"], os.environ["PATH"], bare, timeout=1400)
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {name: part["ended"] for name, part in found.items()} == {p.name: "done" for p in (*gpu.PARTS, gpu.RAY)}
    results = {name: SimpleNamespace(**part).results for name, part in found.items()}
    wrong = {name: values for part in results.values() for name, values in part.items() if "failed" in values}
    assert not wrong
    assert results["decode"]["tiny fp32 batch 2"]["equal"] == 1.0
    assert len(results["decode"]["tiny bf16 batch 1"]["fast_ms_by_scale"]) == 4
    assert results["step"]["tiny bf16 batch 1, scales"]["tokens_per_second"] > 0
    assert results["drawing"] == {"moderngl": {"not run": "it is not installed"}}
    assert "not run" in results["ray"]["through Ray Train and DeepSpeed"]
    assert results["tokenizer"]["held out"]["objects/psnr"] > 0
    assert results["generator"]["held out"]["objects/psnr_truth"] > 0
    pictures = {file.name for file in tmp_path.glob("*.png")}
    assert {"reconstructions_objects.png", "generated_objects.png"} <= pictures
