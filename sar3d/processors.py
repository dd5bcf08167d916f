"""How many processors this process may use, which is often fewer than the machine has."""

import os
from pathlib import Path

_CGROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_cpus(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Processors of this process's affinity, no more than the quota of the cgroups that it is in: a whole number from 1 on.

    PyTorch and Ray look at the affinity, or at the machine. In a container with a quota, threads beyond it are stopped for
    the rest of each period (100 ms), and all others wait for them.

    Args:
        cgroups: where cgroups are mounted, of version 1 or 2.
        membership: the file that names this process's cgroups.
    """
    free = float(len(os.sched_getaffinity(0)))
    for controllers, group in _groups(membership):
        for folder in (group, *group.parents):
            place = folder.relative_to("/")
            free = min(free, _quota(cgroups / place), _old_quota(cgroups / controllers / place))
    return max(1, int(free))


def _groups(membership: Path) -> list[tuple[str, Path]]:
    """Controllers (empty in version 2) and cgroup of each line, such as `0::/user.slice` or `4:cpu,cpuacct:/docker/0a`."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return []
    return [
        (controllers, Path(group))
        for _, controllers, group in lines
        if not controllers or "cpu" in controllers.split(",")
    ]


def _quota(folder: Path) -> float:
    """Version 2: `max 100000`, or microseconds of processor time in each period of so many."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return float("inf") if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return float("inf")


def _old_quota(folder: Path) -> float:
    """Version 1: -1 for none."""
    try:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return float("inf") if quota < 0 else quota / period
    except (OSError, ValueError):
        return float("inf")
