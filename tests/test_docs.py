"""The documents: links lead somewhere, commands parse, and the examples run."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.cli import _parser
from pipelines.config import load
from pipelines.download import OBJECTS
from sar3d.data.views import views_schema
from sar3d.procedural import build_glb, catalogue

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "README.md"]
EXTENDING = REPOSITORY / "docs" / "extending.md"


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Anchors of the headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_relative_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (document.parent / file).resolve() if file else document
        missing = not target.exists() or REPOSITORY not in [target, *target.parents]
        if missing or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def commands(path: Path) -> Iterator[list[str]]:
    """The words of every sar3d command in a document's shell blocks, from the stage on."""
    for block in blocks(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for i, word in enumerate(words):
                if word == "sar3d" or word.endswith("bin/sar3d"):
                    yield words[i + 1 :]
                elif word.startswith("pipelines.") and words[i - 1] == "-m":
                    yield [word.removeprefix("pipelines."), *words[i + 1 :]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_parse_and_their_settings_exist(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    for words in commands(document):
        if document == EXTENDING and any("archive" in w or "coverage" in w for w in words):
            continue  # legal once the examples are in place, which another test does
        parsed = _parser().parse_args(words)
        if "config" not in parsed:
            continue
        overrides = parsed.overrides if "overrides" in parsed else [w for w in parsed.words if "=" in w]
        for config in parsed.config if isinstance(parsed.config, list) else [parsed.config]:
            if config is not None:  # `status` takes a root instead
                load(config, overrides)


def apply(diff: str, folder: Path) -> None:
    """Apply a diff without line numbers; each hunk must fit exactly one place."""
    file = folder
    for part in re.split(r"^(?=--- |@@)", diff, flags=re.MULTILINE):
        if part.startswith("--- "):
            file = folder / re.findall(r"^\+\+\+ b/(.+)$", part, re.MULTILINE)[0]
        elif part.startswith("@@"):
            lines = part.splitlines()[1:]
            old = "\n".join(x[1:] for x in lines if x[0] in " -")
            new = "\n".join(x[1:] for x in lines if x[0] in " +")
            text = file.read_text()
            assert text.count(old) == 1, f"{file.name} has {text.count(old)} places for:\n{old}"
            file.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with both examples of docs/extending.md in it."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in ("sar3d", "pipelines", "configs"):
        shutil.copytree(REPOSITORY / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    names = re.findall(r"^`(pipelines/[\w/]+\.py)`:$", EXTENDING.read_text(), re.MULTILINE)
    for name, code in zip(names, blocks(EXTENDING, "python"), strict=True):
        (copy / name).write_text(code)
    for diff in blocks(EXTENDING, "diff"):
        apply(diff, copy)
    return copy


def sar3d(extended: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(extended)}
    command = [sys.executable, "-m", "pipelines.cli", *words]
    return subprocess.run(command, cwd=extended, env=environment, capture_output=True, text=True, timeout=200)


@dataclass(frozen=True)
class Ran:
    """What the examples left behind."""

    folder: Path
    """Holds runs/demo."""
    words: list[str]
    """The command."""


@pytest.fixture(scope="module")
def ran(extended: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Three objects and a broken file in an archive, downloaded, rendered and measured by the examples."""
    folder = tmp_path_factory.mktemp("ran")
    archive = folder / "objects.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for entry in catalogue(3):
            file.writestr(f"some/{entry.uid}.glb", build_glb(entry.uid))
        file.writestr("broken.glb", b"this is no model")
    words = ["run", "--config", "configs/objects.yaml", f"root={folder / 'runs' / 'demo'}", "cluster.address=local"]
    words += ["download.source=archive", f"download.archive.path={archive}", "stages=[download, render, coverage]"]
    words += ["render.backend=raycast", "render.resolution=32", "render.views=12", "tracking.enabled=false"]
    words += ["max_failure_rate=0.5", "cluster.cpus=2"]
    done = sar3d(extended, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return Ran(folder, words)


def test_the_example_source_and_stage_run(extended: Path, ran: Ran) -> None:
    root = ran.folder / "runs" / "demo"
    (output,) = (root / "coverage").glob("[0-9a-f]*")
    manifest = json.loads((output / "manifest.json").read_text())
    rows = [r for s in manifest["shards"] for r in pq.read_table(output / s["path"]).to_pylist()]
    assert len(rows) == 3
    assert all(0.02 < row["coverage"] < 0.9 for row in rows)
    (downloaded,) = (root / "download").glob("[0-9a-f]*")
    failures = pq.read_table(io.BytesIO((downloaded / "failures.parquet").read_bytes())).to_pylist()
    assert [f["path"] for f in failures] == ["broken.glb"]

    again = sar3d(extended, *ran.words, "--dry-run")
    assert again.stdout.count("reused") == 3, again.stdout + again.stderr


def test_the_commands_of_the_examples_parse(extended: Path) -> None:
    for words in commands(EXTENDING):
        code = "import sys; from pipelines.cli import _parser; from pipelines.config import load; "
        code += "p = _parser().parse_args(sys.argv[1:]); load(p.config, p.overrides)"
        environment = {**os.environ, "PYTHONPATH": str(extended)}
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=extended, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_the_examples_of_reading_run(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ran.folder)
    project, arrow, back = blocks(REPOSITORY / "docs" / "data.md", "python")
    read: dict[str, Any] = {}
    exec(project, read)
    views = read["views"]
    assert read["tensor"].shape == (6, 10, 32, 32)
    assert np.array_equal(read["sample"].novel.depth, read["swapped"].seen.depth)
    plain: dict[str, Any] = {}
    exec(arrow, plain)
    assert np.allclose(plain["depth"], views.depth[0], atol=1e-6)
    assert np.allclose(plain["camera"], views.c2w[0])
    undo: dict[str, Any] = {}
    exec(back, undo)
    corner = np.array([[0.1, 0.2, 0.3]])
    there = corner @ views.normalisation[:3, :3].T + views.normalisation[:3, 3]
    assert np.allclose(undo["to_source"](there, views.normalisation), corner)


def test_data_md_names_every_column() -> None:
    """The tables of the two datasets list exactly the columns of their schemas."""
    text = (REPOSITORY / "docs" / "data.md").read_text()
    for heading, names in (("Objects", OBJECTS.names), ("Views", views_schema(8).names)):
        section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        named = [n for row in re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE) for n in re.findall(r"`(\w+)`", row)]
        assert named == names
