"""`sar3d caption`: files and whole datasets described, and what cannot be."""

import json
import shutil
from pathlib import Path
from typing import Any

import generators
import pytest
import rendered
import torch

from pipelines.cache_tokens import CacheTokensStage
from pipelines.caption import CaptionStage
from pipelines.cli import main
from pipelines.runtime import runner
from pipelines.runtime.reading import read_rows
from sar3d import hub
from sar3d.errors import UserError
from sar3d.generate.captioner import Captioner
from sar3d.llm.config import CaptionDecoding
from sar3d.llm.prompt import CAPTION
from sar3d.procedural import build_glb, catalog

RAYCAST = ("--backend", "raycast", "--device", "cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with `llm/` and `vqvae/`."""
    bundle = tmp_path_factory.mktemp("bundle")
    shutil.copytree(rendered.model(), bundle / "vqvae")
    generators.captioner(bundle / "llm", hub.digest(rendered.model()))
    return bundle


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two good files, and one that is none."""
    folder = tmp_path_factory.mktemp("objects")
    for i, made in enumerate(catalog(2)):
        (folder / f"{i}.glb").write_bytes(build_glb(made.uid))
    (folder / "broken.glb").write_bytes(b"glTF and nothing else")
    (folder / "notes.txt").write_text("no object")
    return folder


def test_files_are_described_and_the_broken_one_is_named(
    models: Path, objects: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["caption", str(objects), "--model", str(models), "--json", *RAYCAST]) == 1
    told = capsys.readouterr()
    lines = [json.loads(line) for line in told.out.splitlines() if line.startswith("{")]
    assert [Path(line["file"]).name for line in lines] == ["0.glb", "1.glb"]
    assert "broken.glb" in told.out + told.err
    assert "Traceback" not in told.out + told.err

    assert main(["caption", str(objects / "0.glb"), "--model", str(models), *RAYCAST]) == 0
    assert capsys.readouterr().out.strip() == f"{objects / '0.glb'}: {lines[0]['caption']}".strip()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "what is to be described?"),
        (["x.glb"], "which model is to describe?"),
        (["{objects}/notes", "--model", "{models}"], "there is no such file"),
        (["{models}", "--model", "{models}"], "there is no 3D file in"),
        (["{objects}", "--model", "{models}/vqvae"], "holds no model that describes objects"),
        (["{objects}", "--model", "{models}/llm"], "give its folder (--vqvae)"),
        (["{objects}", "--model", "{models}", "--vqvae", "{other}"], "was trained on the tokens of the VQVAE"),
        (["{objects}", "--model", "{models}", "--question", " "], "the question is empty"),
        (["{objects}", "--model", "{objects}"], "holds no model"),
    ],
)
def test_what_cannot_be_described_is_one_sentence(
    models: Path, objects: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"models": models, "objects": objects, "other": rendered.model(1)}
    assert main(["caption", *(word.format(**places) for word in words), *RAYCAST]) in (1, 2)
    told = capsys.readouterr()
    assert sentence in (told.out + told.err).replace("\n", " ")
    assert "Traceback" not in told.out + told.err


def configure(root: Path, model: Path, *overrides: str) -> Any:
    return rendered.configure(root, f"caption.captioner={model}", "caption.decoding={max_new_tokens: 4}", *overrides)


@pytest.mark.usefixtures("local_ray")
def test_a_dataset_is_described_and_more_questions_are_another_output(models: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(rendered.root(), root, ignore=shutil.ignore_patterns("cache_*"))
    _, tokens = rendered.run(CacheTokensStage(), configure(root, models / "llm"))
    report, output = rendered.run(CaptionStage(), configure(root, models / "llm"))
    rows = list(read_rows(output))
    assert (report.rows, report.failures) == (rendered.OBJECTS, 0)
    assert {(row["group"], row["question"]) for row in rows} == {(0, CAPTION)}
    codes = {row["uid"]: row["codes"] for row in read_rows(tokens) if row["group"] == 0}
    said = Captioner.from_pretrained(models / "llm")
    for row in rows:
        assert (
            row["caption"]
            == said.caption(torch.tensor(codes[row["uid"]]), decoding=CaptionDecoding(max_new_tokens=4))[0]
        )
    assert rendered.run(CaptionStage(), configure(root, models / "llm"))[0].state == "reused"
    every, _ = rendered.run(CaptionStage(), configure(root, models / "llm", "caption.groups=all"))
    assert every.rows == 4 * rendered.OBJECTS

    foreign = generators.captioner(tmp_path / "foreign", "0" * 64)
    with pytest.raises(UserError, match="the one behind cache_tokens is"):
        runner.run(CaptionStage(), configure(root, foreign), log=lambda _: None)
