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

import generators
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from pipelines.cli import _parser
from pipelines.download import OBJECTS
from pipelines.registry import load
from sar3d.data.formats.views import views_schema
from sar3d.export.config import ExportSettings
from sar3d.generate.sample import Sample
from sar3d.hub import digest, save_pretrained
from sar3d.procedural import build_glb, catalog
from sar3d.vqvae.config import DecoderConfig, EncoderConfig, FieldConfig, QuantizerConfig, VQVAEConfig
from sar3d.vqvae.model import VQVAE

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted((REPOSITORY / "docs").glob("*.md")), *sorted(REPOSITORY.glob("*.md"))]
EXTENDING = REPOSITORY / "docs" / "extending.md"
MICRO = VQVAEConfig(
    resolution=16,
    encoder=EncoderConfig(channels=8, multipliers=(1, 2), blocks=1, attention_width=16, attention_heads=2),
    quantizer=QuantizerConfig(scales=(1, 2, 8)),
    decoder=DecoderConfig(width=24, depth=2, heads=2, channels=8, multipliers=(1, 2), blocks=1, plane_channels=5),
    field=FieldConfig(hidden=8, hidden_layers=1),
)
"""The least VQVAE for the views of the examples."""


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
        if document == EXTENDING:
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
    """A copy of the repository with the examples of docs/extending.md in it."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in ("sar3d", "pipelines", "configs"):
        shutil.copytree(REPOSITORY / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    names = re.findall(r"^`((?:pipelines|sar3d)/[\w/]+\.py)`:$", EXTENDING.read_text(), re.MULTILINE)
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
        for entry in catalog(3):
            file.writestr(f"some/{entry.uid}.glb", build_glb(entry.uid))
        file.writestr("broken.glb", b"this is no model")
    save_pretrained(VQVAE(MICRO), folder / "vqvae")
    words = ["run", "--config", "configs/objects.yaml", f"root={folder / 'runs' / 'demo'}", "cluster.address=local"]
    words += ["download.source=archive", f"download.archive.path={archive}", f"quantization.vqvae={folder / 'vqvae'}"]
    words += ["stages=[download, render, coverage, quantization]"]
    words += ["train_elevation.train.steps=3", "train_elevation.train.log_every=1"]
    words += [
        "render.backend=raycast",
        f"render.resolution={MICRO.resolution}",
        "render.views=12",
        "tracking.enabled=false",
    ]
    words += ["max_failure_rate=0.5", "cluster.cpus=2"]
    done = sar3d(extended, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return Ran(folder, words)


def rows_of_stage(ran: Ran, stage: str) -> list[dict[str, Any]]:
    (output,) = (ran.folder / "runs" / "demo" / stage).glob("[0-9a-f]*")
    manifest = json.loads((output / "manifest.json").read_text())
    return [row for shard in manifest["shards"] for row in pq.read_table(output / shard["path"]).to_pylist()]


def test_the_example_source_and_stages_run(extended: Path, ran: Ran) -> None:
    root = ran.folder / "runs" / "demo"
    covered = rows_of_stage(ran, "coverage")
    assert len(covered) == 3
    assert all(0.02 < row["coverage"] < 0.9 for row in covered)
    lost = rows_of_stage(ran, "quantization")
    assert {row["uid"] for row in lost} == {row["uid"] for row in covered}
    assert all(0 < row["lost"] < 2 for row in lost)
    (downloaded,) = (root / "download").glob("[0-9a-f]*")
    failures = pq.read_table(io.BytesIO((downloaded / "failures.parquet").read_bytes())).to_pylist()
    assert [f["path"] for f in failures] == ["broken.glb"]


CHECK = """
import json, sys
from pipelines.cli import _parser, main
from pipelines.registry import STAGES, load
from pipelines.runtime.engine import prepare
from sar3d.training.fit import fit

for words in json.loads(sys.argv[1]):
    parsed = _parser().parse_args(words)
    load(parsed.config, parsed.overrides)
words = json.loads(sys.argv[2])
parsed = _parser().parse_args(words)
stage = STAGES["train_elevation"]
context = prepare(stage, load(parsed.config, parsed.overrides), print)
made = stage.build(context, print)
fit(made.task, made.train, context.config.train, lambda step, metrics: print(f"step {step}: {metrics['error']:.2f}"))
sys.exit(main([*words, "--dry-run"]))
"""
"""Parses all commands of the page, trains the example's model without Ray, and asks what is finished."""


def test_the_commands_of_the_examples_parse_and_the_training_trains(extended: Path, ran: Ran) -> None:
    arguments = [json.dumps(list(commands(EXTENDING))), json.dumps(ran.words)]
    environment = {**os.environ, "PYTHONPATH": str(extended)}
    command = [sys.executable, "-c", CHECK, *arguments]
    done = subprocess.run(command, cwd=extended, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train_elevation: 3 view groups of 3 objects to train on" in done.stdout
    assert len(re.findall(r"^step \d: 0\.\d\d$", done.stdout, re.MULTILINE)) == 3
    assert done.stdout.count("reused") == 4, done.stdout + done.stderr


@pytest.mark.slow
def test_the_example_of_a_training_stage_runs(extended: Path, ran: Ran) -> None:
    words = ["train_elevation", *[word for word in ran.words[1:] if not word.startswith("stages=")]]
    done = sar3d(extended, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (model,) = (ran.folder / "runs" / "demo" / "train_elevation").glob("[0-9a-f]*/model")
    assert load_file(model / "model.safetensors")["6.weight"].shape == (1, 16)
    assert json.loads((model / "config.json").read_text())["kind"] == "elevation"


def test_the_examples_are_short_and_change_the_registry_alone() -> None:
    assert all(code.count("\n") < 100 for code in blocks(EXTENDING, "python"))
    changed = [re.findall(r"^\+\+\+ b/(.+)$", diff, re.MULTILINE) for diff in blocks(EXTENDING, "diff")]
    assert changed == [["pipelines/sources/config.py"], *[["pipelines/registry.py"]] * 3]


def test_the_examples_of_reading_run(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ran.folder)
    project, arrow, warned, back = blocks(REPOSITORY / "docs" / "data.md", "python")
    read: dict[str, Any] = {}
    exec(project, read)
    views = read["views"]
    assert read["tensor"].shape == (6, 10, *2 * (MICRO.resolution,))
    plain: dict[str, Any] = {}
    exec(arrow, plain)
    assert np.allclose(plain["depth"], views.depth[0], atol=1e-6)
    assert np.allclose(plain["camera"], views.c2w[0])
    warnings: dict[str, Any] = {}
    exec(warned, warnings)
    assert warnings["shards"]
    assert warnings["found"] == {}
    undo: dict[str, Any] = {}
    exec(back, undo)
    corner = np.array([[0.1, 0.2, 0.3]])
    there = corner @ views.normalisation[:3, :3].T + views.normalisation[:3, 3]
    assert np.allclose(undo["to_source"](there, views.normalisation), corner)


def as_a_root(folder: Path) -> None:
    """Untrained models under a pipeline's root, as training leaves them."""
    bundle = generators.bundle()
    captioner = generators.captioner(folder.parent / "llm", digest(bundle / "vqvae"))
    models = {"train_vqvae": bundle / "vqvae", "train_ar": bundle / "ar_text", "train_llm": captioner}
    for stage, model in models.items():
        output = folder / stage / "0123456789abcdef"
        shutil.copytree(model, output / "model")
        (output / "_SUCCESS").write_text(json.dumps({"finished": 1.0, "model": digest(model)}))


def test_the_lines_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_a_root(tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Sample.save, "__defaults__", (ExportSettings(**generators.EXPORT),))  # small files
    (lines,) = blocks(REPOSITORY / "README.md", "python")
    assert len([line for line in lines.splitlines() if line]) == 7
    exec(lines, {})
    assert capsys.readouterr().out.endswith("\n")
    assert {path.name for path in Path("rocket").iterdir()} >= {"object.glb", "object.ply", "tokens.safetensors"}
    assert Path("variation", "object.glb").is_file()


def test_the_example_of_reading_a_strangers_file_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (lines,) = blocks(REPOSITORY / "SECURITY.md", "python")
    for content, said in ((build_glb(catalog(1)[0].uid), "triangles"), (b"glTF", "truncated")):
        Path("object.glb").write_bytes(content)
        exec(lines, {})
        assert said in capsys.readouterr().out


def test_importing_the_package_loads_none_of_its_parts() -> None:
    code = "import sys, sar3d; print([m for m in sys.modules if m.startswith('sar3d.') or m == 'torch'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_data_md_names_every_column() -> None:
    """The tables of the two datasets list exactly the columns of their schemas."""
    text = (REPOSITORY / "docs" / "data.md").read_text()
    for heading, names in (("Objects", OBJECTS.names), ("Views", views_schema(8).names)):
        section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        named = [n for row in re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE) for n in re.findall(r"`(\w+)`", row)]
        assert named == names
