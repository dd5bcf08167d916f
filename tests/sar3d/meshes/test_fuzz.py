"""A hundred damaged files: each one loads or has a reason, in time, and nothing outside its root is opened."""

import shutil
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from mesh_fuzz import FORMATS, faults, inputs, lay_out

from sar3d.isolation import LimitedProcess, Limits

COUNT = 100


def try_all(folder: Path, first: int, count: int, draw: bool) -> tuple[list[str], dict[str, int]]:
    """(what was wrong, how often each outcome was: "" for a scene, else the reason's kind)."""
    wrong: list[str] = []
    outcomes: dict[str, int] = {}
    with LimitedProcess("mesh_fuzz:handle", Limits(20, 1 << 30), recycle_after=500) as process:
        for case in inputs(first, count):
            place = folder / str(case.number)
            path = lay_out(case, place)
            # An error of the process itself (a crash, a time-out, an exception) ends the test with its name.
            reply, _ = process.call({"path": str(path), "root": str(place / "root"), "draw": draw})
            outcomes[reply["kind"]] = outcomes.get(reply["kind"], 0) + 1
            wrong += [f"{case.number} ({case.kind}): {fault}" for fault in faults(case, reply, place)]
            shutil.rmtree(place)
    return wrong, outcomes


def test_damaged_files_load_or_have_a_reason(tmp_path: Path) -> None:
    wrong, outcomes = try_all(tmp_path, 0, COUNT, draw=False)
    assert not wrong, "\n".join(wrong)
    assert 0 < outcomes[""] < COUNT
    assert len(outcomes) > 5


def test_the_same_numbers_give_the_same_files() -> None:
    first, again = (list(inputs(7, 20)) for _ in range(2))
    assert first == again
    assert {case.kind for case in first} == set(FORMATS)
