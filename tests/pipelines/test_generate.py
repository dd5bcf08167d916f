"""`sar3d generate` for one prompt: files, honest exit codes, one sentence for what cannot be done."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import generators
import numpy as np
import pytest
import rendered
import torch
from PIL import Image
from safetensors.torch import load_file

from pipelines.cli import main
from pipelines.runtime.output import Output
from sar3d import hub
from sar3d.errors import UserError
from sar3d.generate import Sar3D
from sar3d.generate.folders import find_folders

SMALL = ["--device", "cpu", "--resolution", "16", "--frames", "2"]


def call(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str]:
    """Exit code, and everything that was printed."""
    try:
        code = main(["generate", *map(str, words)])
    except SystemExit as stopped:  # argparse
        code = int(stopped.code or 0)
    out, err = capsys.readouterr()
    return code, out + err


def test_one_prompt_becomes_n_folders(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [
        "--model",
        generators.bundle(),
        "--out",
        tmp_path,
        "--n",
        "2",
        "--seed",
        "4",
        "--formats",
        "png",
        "--preset",
        "wild",
    ]
    code, said = call(capsys, "--text", "A red  apple", *words, "--top-k", "20", "--device", "cpu")
    assert code == 0, said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-red-apple-4", "a-red-apple-5"]
    assert "2 of 2 objects" in said
    for seed in (4, 5):
        folder = tmp_path / f"a-red-apple-{seed}"
        settings = json.loads((folder / "settings.json").read_text())
        assert settings["seed"] == seed
        assert settings["prompt"]["text"] == "A red apple"
        assert settings["decoding"] | {"guidance": 8.0, "top_k": 20, "top_p": 0.5} == settings["decoding"]
        assert settings["export"]["formats"] == ["png"]
        assert {"sheet.png", "tokens.safetensors", "settings.json"} == {p.name for p in folder.iterdir()}
    system = Sar3D.from_pretrained(generators.bundle(), device="cpu")
    decoding = generators.decoding("wild", top_k=20)
    expected = system.generate(text="A red apple", seed=5, decoding=decoding)[0].tokens
    assert torch.equal(load_file(tmp_path / "a-red-apple-5" / "tokens.safetensors")["tokens"].long(), expected)


def test_a_picture_is_a_prompt(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "Cup 1.png"
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(file)
    words = ["--model", generators.bundle(), "--out", tmp_path / "out", "--formats", "", "--device", "cpu"]
    code, said = call(capsys, "--image", file, *words)
    assert code == 0, said
    settings = json.loads((tmp_path / "out" / "cup-1-0" / "settings.json").read_text())
    assert (settings["prompt"]["file"], settings["prompt"]["size"]) == ("Cup 1.png", [60, 40])


def test_a_field_without_a_surface_shows_in_the_exit_code(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--model", generators.bundle(), "--out", tmp_path, "--level", "10000", "--formats", "ply,png", *SMALL]
    code, said = call(capsys, "--text", "nothing", *words)
    assert code == 1
    assert "error: seed 0: the field" in said
    assert "0 of 1 objects" in said
    assert (tmp_path / "nothing-0" / "tokens.safetensors").is_file()


def test_what_cannot_be_done_is_one_sentence_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    dot, broken, huge = tmp_path / "dot.png", tmp_path / "broken.png", tmp_path / "huge.png"
    Image.new("RGB", (1, 1)).save(dot)
    Image.new("1", (20_000, 20_000)).save(huge)
    Image.new("RGB", (64, 64)).save(broken)
    broken.write_bytes(broken.read_bytes()[:-30])
    other = Path(shutil.copytree(generators.bundle(), tmp_path / "other"))
    shutil.rmtree(other / "vqvae")
    shutil.copytree(rendered.model(7), other / "vqvae")
    model = ["--model", generators.bundle()]
    cases: list[tuple[list[Any], str]] = [
        (["--text", "", *model], "the text is empty"),
        (["--text", "word " * 10_000, *model], "49,999 characters"),
        (["--image", tmp_path / "none.png", *model], "there is no file"),
        (["--image", dot, *model], "1 × 1 pixels"),
        (["--image", huge, *model], "20000 × 20000 pixels"),
        (["--image", broken, *model], "truncated or damaged"),
        (["--image", generators.bundle() / "vqvae" / "model.safetensors", *model], "it is none of PNG"),
        (["--text", "x", "--n", "0", *model], "--n 0"),
        (["--text", "x", "--seed", "-1", *model], "the seed -1"),
        (["--text", "x", "--top-k", "-1", *model], "top_k of decoding"),
        (["--text", "x", "--top-p", "0", *model], "top_p of decoding"),
        (["--text", "x", "--guidance", "-1", *model], "guidance of decoding"),
        (["--text", "x", "--guidance", "nan", *model], "guidance of decoding"),
        (["--text", "x", "--preset", "best", *model], "no decoding named 'best'"),
        (["--text", "x", "--formats", "fbx", *model], "no export format 'fbx'"),
        (["--text", "x", "--decoder", "flexicubes", *model], "there is no mesh decoder"),
        (["--text", "x", "--flexicubes", rendered.model(), *model], "--decoder flexicubes does not ask for it"),
        (["--text", "x", "--grid", "1", *model], "grid is 1"),
        (["--text", "x", "--device", "abacus", *model], "no device 'abacus'"),
        (["--text", "x", "--model", tmp_path / "none"], "there is no folder"),
        (["--text", "x", "--model", rendered.model()], "no generator"),
        (["--text", "x", "--model", generators.bundle() / "ar_text"], "there is no VQVAE"),
        (["--text", "x", "--model", generators.bundle() / "ar_image", "--vqvae", rendered.model()], "for texts"),
        (["--text", "x", "--model", other], "trained on the tokens of the VQVAE"),
        (
            ["--text", "x", "--model", generators.bundle() / "ar_text", "--vqvae", rendered.model(7)],
            "tokens of the VQVAE",
        ),
        (["--text", "x"], "which model?"),
        ([], "what is to be generated?"),
        (["--config", "configs/demo.yaml", "--n", "4"], "--n goes with --text or --image"),
        (["--text", "x", "--config", tmp_path / "none.yaml"], "there is no configuration file"),
    ]
    for words, sentence in cases:
        code, said = (
            call(capsys, "--out", tmp_path / "out", *words) if words[:1] != ["--config"] else call(capsys, *words)
        )
        assert code == 2, (words, said)
        assert sentence in said, (words, said)
        assert len(said.strip().splitlines()) == 1, said
        assert not (tmp_path / "out").exists(), words


def test_help_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = call(capsys, "--help")
    assert code == 0
    for word in (
        "--text",
        "--image",
        "--config",
        "--n",
        "--seed",
        "--guidance",
        "--formats",
        "--model",
        "--out",
        "greedy",
    ):
        assert word in said


def finished(root: Path, stage: str, fingerprint: str, model: Path, when: float) -> Output:
    """A training stage's finished output."""
    output = Output(str(root), stage, fingerprint)
    shutil.copytree(model, Path(output.url) / "model")
    output.succeed(when, model=hub.digest(model), steps=1)
    success = Path(output.url) / "_SUCCESS"
    success.write_text(json.dumps(json.loads(success.read_text()) | {"finished": when}))
    return output


def test_under_a_pipelines_root_the_newest_generator_and_its_vqvae_are_found(tmp_path: Path) -> None:
    bundle = generators.bundle()
    finished(tmp_path, "train_vqvae", "0" * 16, bundle / "vqvae", 1.0)
    finished(tmp_path, "train_vqvae", "1" * 16, rendered.model(7), 9.0)  # newer, of no generator
    old = generators.save_generator(
        tmp_path / "old", generators.generator_config("text", 384), 5, generators.trained_with("text")
    )
    finished(tmp_path, "train_ar", "2" * 16, bundle / "ar_text", 3.0)
    finished(tmp_path, "train_ar", "3" * 16, old, 2.0)
    finished(tmp_path, "train_ar_image", "4" * 16, bundle / "ar_image", 4.0)
    unfinished = Path(tmp_path, "train_ar", "5" * 16, "model")
    shutil.copytree(old, unfinished)
    for kind, output in (("text", "train_ar/" + "2" * 16), ("image", "train_ar_image/" + "4" * 16)):
        folders = find_folders(tmp_path, kind="text" if kind == "text" else "image")
        assert folders.vqvae == tmp_path / "train_vqvae" / ("0" * 16) / "model"
        assert list(folders.generators.values()) == [tmp_path / output / "model"]
    shutil.rmtree(tmp_path / "train_ar_image")
    with pytest.raises(UserError, match=r"names no generator for pictures: .* a pipeline's root with a finished one"):
        find_folders(tmp_path, kind="image")
    shutil.rmtree(tmp_path / "train_vqvae" / ("0" * 16))
    with pytest.raises(UserError, match=r"no VQVAE in .* that its generator was trained with"):
        find_folders(tmp_path, kind="text")
    assert find_folders(tmp_path, vqvae=bundle / "vqvae", kind="text").vqvae == bundle / "vqvae"


def test_a_training_output_and_a_bundle_on_an_object_store_are_models_too(s3_root: str, tmp_path: Path) -> None:
    import fsspec

    output = finished(tmp_path, "train_ar", "2" * 16, generators.bundle() / "ar_text", 3.0)
    shutil.rmtree(Path(output.url) / "_state", ignore_errors=True)
    folders = find_folders(output.url, vqvae=rendered.model(), kind="text")
    assert folders.generators["text"] == Path(output.url) / "model"
    fsspec.filesystem("s3").put(str(generators.bundle()), f"{s3_root}/bundle", recursive=True)
    remote = find_folders(f"{s3_root}/bundle", kind="image")
    system = Sar3D(remote, "cpu", {})
    assert system.vqvae_digest == hub.digest(generators.bundle() / "vqvae")
    assert hub.digest(remote.generators["image"]) == hub.digest(generators.bundle() / "ar_image")
    with pytest.raises(UserError, match="there is no VQVAE in"):
        find_folders(f"{s3_root}/bundle/ar_image", kind="image")


@pytest.mark.slow
def test_the_module_is_the_same_program(tmp_path: Path) -> None:
    words = ["--text", "a ship", "--model", str(generators.bundle()), "--out", str(tmp_path), "--formats", "png"]
    command = [sys.executable, "-m", "pipelines.generate", *words, *SMALL]
    done = subprocess.run(
        command, cwd=rendered.REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a-ship-0" / "sheet.png").is_file()
