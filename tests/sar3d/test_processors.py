"""How many processors a process may use: affinity, and quotas of cgroups of both versions."""

import os
from pathlib import Path

import pytest

from sar3d.processors import available_cpus


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty cgroups on a machine of eight processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    return tmp_path


def found(place: Path, membership: str, **files: str) -> int:
    for name, content in files.items():
        file = place / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs_", "cpu.cfs_")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    (place / "membership").write_text(membership)
    return available_cpus(place, place / "membership")


def test_without_a_quota_the_affinity_counts(place: Path) -> None:
    assert found(place, "0::/\n") == 8
    assert found(place, "0::/a\n", a__cpu_max="max 100000\n") == 8
    assert available_cpus(place, place / "no such file") == 8


def test_the_least_quota_on_the_way_up_counts(place: Path) -> None:
    files = {"a__b__cpu_max": "700000 100000\n", "a__cpu_max": "250000 100000\n"}
    assert found(place, "0::/a/b\n", **files) == 2
    assert found(place, "0::/a\n", a__cpu_max="50000 100000\n") == 1


def test_the_quota_of_version_1_counts(place: Path) -> None:
    files = {"cpu,cpuacct__d__cfs_quota_us": "300000\n", "cpu,cpuacct__d__cfs_period_us": "100000\n"}
    assert found(place, "5:memory:/x\n4:cpu,cpuacct:/d\n", **files) == 3
    assert found(place, "4:cpu,cpuacct:/d\n", **{"cpu,cpuacct__d__cfs_quota_us": "-1\n"}) == 8
