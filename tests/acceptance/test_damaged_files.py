"""What the project promises of damaged 3D files and pictures: the long proof of `tests/sar3d/meshes/test_fuzz.py`."""

import sys
from pathlib import Path

import pytest
from proofs import REPOSITORY, Record

sys.path.append(str(REPOSITORY / "tests" / "sar3d" / "meshes"))
from test_fuzz import try_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
COUNT = 2000


@pytest.mark.acceptance(
    "Of 2,000 damaged files every one loads and is drawn, or has a typed reason; nothing outside the root is opened"
)
def test_two_thousand_damaged_files(tmp_path: Path, record_property: Record) -> None:
    wrong, outcomes = try_all(tmp_path, 0, COUNT, draw=True)
    assert not wrong, "\n".join(wrong)
    assert outcomes[""] > COUNT / 10
    record_property("drawn", outcomes.pop(""))
    record_property(
        "refused", ", ".join(f"{kind} {n}" for kind, n in sorted(outcomes.items(), key=lambda pair: -pair[1]))
    )
