"""`sar3d run`: which of the configuration's stages run, the table of what came of each, and the page at the end."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import rendered

from pipelines.cli import main
from pipelines.run import choose
from sar3d.errors import UserError

LISTED = ("download", "render", "train_vqvae", "cache_tokens")


@pytest.mark.parametrize(
    ("first", "last", "only", "names"),
    [
        (None, None, None, LISTED),
        ("render", None, None, LISTED[1:]),
        (None, "render", None, LISTED[:2]),
        ("render", "train_vqvae", None, LISTED[1:3]),
        ("render", "render", None, ("render",)),
        (None, None, "render", ("render",)),
        (None, None, "cache_tokens, download", ("download", "cache_tokens")),
    ],
)
def test_the_stages_that_are_asked_for_run_in_order(
    first: str | None, last: str | None, only: str | None, names: tuple[str, ...]
) -> None:
    assert choose(LISTED, first, last, only) == names


@pytest.mark.parametrize(
    ("first", "last", "only", "sentence"),
    [
        ("rendering", None, None, "--from rendering is not a stage; there are: download, render"),
        (None, "rendering", None, "--to rendering is not a stage"),
        (None, None, "render,x", "--only x is not a stage"),
        (
            "import_chunks",
            None,
            None,
            "not among the configuration's stages (download, render, train_vqvae, cache_tokens)",
        ),
        ("cache_tokens", "render", None, "--from cache_tokens comes after --to render"),
        ("render", None, "render", "leave out --from and --to"),
        (None, None, ",", "--only names no stage"),
    ],
)
def test_what_cannot_be_is_one_sentence(first: str | None, last: str | None, only: str | None, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        choose(LISTED, first, last, only)
    assert "\n" not in str(caught.value)


class Ran:
    """One `sar3d run`: its exit code, its table by stage, and what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> None:
        config = str(rendered.REPOSITORY / "configs" / "demo.yaml")
        flags = [word for word in words if "=" not in word]
        overrides = [word for word in words if "=" in word]
        capsys.readouterr()
        command = ["run", *flags, "--config", config, *rendered.words(root), "report=false", *overrides]
        self.code = main(command)
        out = capsys.readouterr()
        self.said = " ".join(out.err.split())
        cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.out.splitlines() if "│" in line]
        self.rows: dict[str, list[str]] = {}
        for row in cells:
            if row[0]:
                self.rows[row[0]] = row
            else:  # a sentence that goes on
                last = self.rows[next(reversed(self.rows))]
                last[-1] += f" {row[-1]}"

    def states(self) -> dict[str, str]:
        return {name: row[1] for name, row in self.rows.items()}


THREE = "stages=[download, render, cache_tokens]"


@pytest.mark.usefixtures("local_ray")
def test_the_table_says_what_ran_what_was_reused_and_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = tmp_path  # other tests may have cached tokens in the common one
    for name in ("download", "render"):
        shutil.copytree(rendered.root() / name, root / name)
    ran = Ran(capsys, root, "--to", "render", THREE)
    assert ran.code == 0
    assert ran.states() == {"download": "reused", "render": "reused", "cache_tokens": "left out"}
    assert ran.rows["render"][-1] == "finished before"
    assert int(ran.rows["render"][4]) == 4 * rendered.OBJECTS
    assert "not asked for; it has no finished output" in ran.rows["cache_tokens"][-1]
    assert not (root / "cache_tokens").exists()
    only = Ran(capsys, root, "--only", "render", THREE)
    assert only.states() == {"download": "left out", "render": "reused", "cache_tokens": "left out"}
    assert only.rows["download"][-1] == "not asked for; finished before"


@pytest.mark.usefixtures("local_ray")
def test_a_stage_that_stops_is_in_the_table_with_its_reason(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ran = Ran(capsys, tmp_path, "--from", "render", THREE)
    assert ran.code == 2
    assert ran.states() == {"download": "left out", "render": "stopped", "cache_tokens": "not reached"}
    assert "reads the output of download, which has not been run" in ran.rows["render"][-1]
    assert "error: render reads the output of download" in ran.said


def test_a_dry_run_shows_the_chosen_stages_and_changes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ran = Ran(capsys, tmp_path / "none", "--to", "render", "--dry-run", THREE, "report=true")
    assert ran.code == 0
    assert ran.states() == {"download": "planned", "render": "planned", "cache_tokens": "left out"}
    assert "would run after download" in ran.rows["render"][-1]
    assert not (tmp_path / "none" / "report.html").exists()


@pytest.mark.usefixtures("local_ray")
def test_the_page_is_the_last_step_and_its_error_is_one_of_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = rendered.root()
    ran = Ran(capsys, root, "--to", "render", THREE, "report=true")
    assert (ran.code, ran.states()["report"]) == (0, "done")
    page = root / "report.html"
    assert "<title>SAR3D" in page.read_text()
    page.unlink()

    def full(*_: Any, **__: Any) -> str:
        raise UserError("there is no room left under the root")

    monkeypatch.setattr("pipelines.report.report", full)
    failed = Ran(capsys, root, "--to", "render", THREE, "report=true")
    assert failed.code == 2
    assert failed.states() == {
        "download": "reused",
        "render": "reused",
        "cache_tokens": "left out",
        "report": "stopped",
    }
    assert "error: there is no room left under the root" in failed.said
