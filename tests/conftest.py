"""Shared by all tests."""

import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.pop("MLFLOW_TRACKING_URI", None)
REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "tests" / "pipelines"), str(REPOSITORY / "benchmarks")]
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data beside the checkout; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared with the development data is not here")
    return SHARED


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """One thread for each test, its fixtures included: small models are slower on two, and results then depend on
    nothing else. The long proofs take what there is.
    """
    import torch

    if "acceptance" not in item.path.parts:
        torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--acceptance-report", metavar="FOLDER", help="write a dated table of what was shown to FOLDER")


class AcceptanceReport:
    """Collects outcomes, durations and recorded properties, and writes them as one dated Markdown table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[tuple[str, str, str, float, str]] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]):
        report = yield
        if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
            mark = item.get_closest_marker("acceptance")
            line = mark.args[0] if mark else (item.obj.__doc__ or item.name).strip().split("\n")[0]
            numbers = "; ".join(f"{k}: {v}" for k, v in item.user_properties)
            if report.outcome == "skipped":
                numbers = str(report.longrepr[-1]) if isinstance(report.longrepr, tuple) else numbers
            self.rows.append((line, item.nodeid, report.outcome, report.duration, numbers))
        return report

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        import platform
        import subprocess
        from datetime import datetime

        self.folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now()
        file = self.folder / f"acceptance-{now:%Y-%m-%d}.md"
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        # The proofs take hours: a run of some of them leaves the rows of the others as they are.
        table = {cells(row)[0]: row for row in file.read_text().splitlines()[6:]} if file.exists() else {}
        for line in dict.fromkeys(row[0] for row in self.rows):
            rows = [row for row in self.rows if row[0] == line]
            names = ", ".join(dict.fromkeys(f"`{row[1].split('[')[0]}`" for row in rows))
            outcomes = ", ".join(f"{n} {outcome}" for outcome, n in Counter(row[2] for row in rows).items())
            numbers = "; ".join(row[4] for row in rows if row[4]).replace("|", "/")
            seconds, when = sum(row[3] for row in rows), f"{now:%H:%M}, {head.stdout.strip()}"
            table[line] = f"| {line} | {names} | {outcomes} | {seconds:.0f} | {when} | {numbers} |"
        passed = sum(re.fullmatch(r"\d+ passed", cells(row)[2]) is not None for row in table.values())
        lines = [
            f"# Acceptance, {now:%Y-%m-%d}",
            "",
            f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}. "
            f"{passed} of {len(table)} lines passed.",
            "",
            "| what is shown | tests | outcome | seconds | run at, commit | measured |",
            "|---|---|---|---|---|---|",
        ]
        file.write_text("\n".join([*lines, *table.values()]) + "\n")


def cells(row: str) -> list[str]:
    """Of a row of a Markdown table."""
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("--acceptance-report")
    if folder:
        config.pluginmanager.register(AcceptanceReport(Path(folder)), "acceptance-report")
