"""Configurations and the command line: every shipped config loads; what is wrong is said in one sentence."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.registry import STAGES, load
from pipelines.runtime.fingerprint import identity
from sar3d.ar.config import PRESETS as AR_PRESETS
from sar3d.data.datasets.token_config import TokenDataConfig
from sar3d.errors import UserError
from sar3d.tasks.ar.config import ARTaskConfig
from sar3d.tasks.vqvae.config import VQVAETaskConfig
from sar3d.vqvae.config import PRESETS as VQVAE_PRESETS

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_has_a_fingerprint(file: Path) -> None:
    config = load(file, [])
    assert config.root.endswith(f"runs/{file.stem}")
    assert set(config.stages) <= set(STAGES)
    assert identity(config.render)["views"] == config.render.views


def test_overrides_have_types() -> None:
    config = load(
        CONFIGS[0], ["render.views=12", "render.radius=1.8", "root=/tmp/x", "render.lit=false", "stages=[render]"]
    )
    assert (config.render.views, config.render.radius, config.render.lit) == (12, 1.8, False)
    assert (config.root, config.stages) == ("/tmp/x", ("render",))
    assert load(CONFIGS[0], ["root=s3://bucket/x"]).root == "s3://bucket/x"


@pytest.mark.acceptance("A wrong config key is one clear sentence")
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("render.resolutoin=3", "render.resolutoin is not a setting .*did you mean render.resolution"),
        ("rendr.views=3", "rendr is not a setting .*did you mean render"),
        ("render.views=many", "render.views='many' is wrong .*integer"),
        ("render.views=0", "views is 0: give 1 or more"),
        ("render.resolution=4", "render.resolution=4 is wrong"),
        ("render.backend=vulkan", "render.backend='vulkan' is wrong .*'moderngl'"),
        ("download.source=folder", "download.source='folder' is wrong .*'directory'"),
        ("render.radius=wide", r"render\.radius.*'wide' is wrong"),
        ("max_failure_rate=2", "max_failure_rate=2 is wrong"),
        ("stages=[download, paint]", "stages lists 'paint', which is not a stage; there are: download, render"),
        ("views", "'views' is not an override: write key=value"),
        ("root.x=3", "root.x|root"),
    ],
)
def test_what_is_wrong_is_named(override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        load(CONFIGS[0], [override])
    assert "\n" not in str(caught.value)


def sar3d(*words: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


@pytest.mark.acceptance("A missing folder or an unwritable root is one clear sentence and a non-zero exit code")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("download", "--config", "nowhere.yaml"), "there is no configuration file nowhere.yaml"),
        (
            ("render", "--config", "configs/demo.yaml", "root={tmp}/r"),
            "run `sar3d download` with the same configuration first",
        ),
        (
            ("run", "--config", "configs/objects.yaml", "root={tmp}/r", "download.directory.path={tmp}/none"),
            "{tmp}/none",
        ),
        (("run", "--config", "configs/objects.yaml", "root={tmp}/r"), "download.directory.path"),
        (("run", "--config", "configs/demo.yaml", "root={tmp}/file/r"), "a part of the path is a file"),
        (("run", "--config", "configs/demo.yaml", "root=s3://bucket/r"), "set MLFLOW_TRACKING_URI"),
        (
            ("run", "--config", "configs/demo.yaml", "root={tmp}/r", "render.backend=opengl"),
            "render.backend='opengl' is wrong",
        ),
    ],
)
def test_the_program_says_one_sentence_and_fails(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = sar3d(*(w.format(tmp=tmp_path) for w in words))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert sentence.format(tmp=tmp_path) in last


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = sar3d("--help").stdout
    assert all(name in text for name in [*STAGES, "run", "status", "gc"])
    for name in STAGES:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert "--dry-run" in capsys.readouterr().out


def test_module_and_script_are_the_same_program(tmp_path: Path) -> None:
    words = ("--config", "configs/demo.yaml", f"root={tmp_path}", "--dry-run")
    module = subprocess.run(
        [sys.executable, "-m", "pipelines.download", *words],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert module.returncode == 0, module.stderr
    assert "planned" in module.stdout
    assert "12 of 12 objects" in module.stdout.replace("\n", " ")
    script = [sys.executable, "pipelines/download.py", *words]
    assert subprocess.run(script, capture_output=True, text=True, cwd=REPOSITORY, check=False).returncode == 0


@pytest.mark.parametrize(
    "text",
    ["/data/a #b", "2026-11-27", "no", "a: b", "012", "1e3", "[x]", "{y", "null", "'quoted'", "-", "s3://b/k?x=1"],
)
def test_an_override_of_a_text_setting_is_the_text_as_it_stands(text: str) -> None:
    config = load(
        REPOSITORY / "configs" / "objects.yaml",
        [f"tracking.experiment={text}", "generate.preset=greedy", f"cluster.address={text}"],
    )
    assert (config.tracking.experiment, config.cluster.address) == (text, text)


def test_other_overrides_are_read_as_yaml() -> None:
    words = ["stages=[download, render]", "render.views=12", "tracking.uri=null", "render.lit=no", "tracking.uri=null"]
    words += ["download.objaverse.categories=[no, 012]", "train_vqvae.task.model={resolution: 64}"]
    config = load(REPOSITORY / "configs" / "objects.yaml", words)
    assert (config.stages, config.render.views, config.render.lit) == (("download", "render"), 12, False)
    assert (config.tracking.uri, config.download.objaverse.categories) == (None, ("no", "012"))
    assert (
        load(REPOSITORY / "configs" / "objects.yaml", ["download.directory.path=/x #y"]).download.directory.path
        == "/x #y"
    )
    assert load(REPOSITORY / "configs" / "objects.yaml", ["root=/r/2026-11-27 #1"]).root == "/r/2026-11-27 #1"


def test_a_recipe_lies_below_the_file_and_the_file_below_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    demo = REPOSITORY / "configs" / "demo.yaml"
    config = load(demo, ["train_ar.data.val=0.25"])
    assert (config.train_vqvae.train.batch, config.train_vqvae.train.steps) == (8, 600)
    assert (config.train_ar.data.val, config.train_ar_image.data.val) == (0.25, 0.0)
    # A whole section on the command line replaces what was there.
    assert load(demo, ["train_ar.data={test: 0.5}"]).train_ar.data.val == TokenDataConfig().val
    with pytest.raises(UserError, match="recipe=long is not a recipe; there are: published, short"):
        load(demo, ["recipe=long"])
    words = ["run", "--config", str(demo), "--dry-run", "--show", "root=/none", "train_vqvae.train.seed=3"]
    assert main([*words, "tracking.enabled=false"]) == 0
    shown = dict(line.split(" = ", 1) for line in capsys.readouterr().out.splitlines() if " = " in line)
    assert shown["train_vqvae.train.seed"] == "3  (command line)"
    assert shown["train_vqvae.train.steps"] == f"600  ({demo})"
    assert shown["train_vqvae.train.batch"] == "8  (recipe short)"
    assert shown["train_vqvae.train.micro_batch"] == "null  (default)"
    assert shown["train_vqvae.task.model.quantizer.latent_norm"] == '"rms"  (recipe short)'
    assert shown["train_vqvae.task.model.decoder.width"] == "96  (preset tiny)"
    assert shown["generate.held_out.views"] == "5  (same as train_vqvae.data.held_out)"


def test_settings_of_a_model_lie_over_the_preset_that_is_named() -> None:
    demo, tiny = REPOSITORY / "configs" / "demo.yaml", VQVAE_PRESETS["tiny"]
    model = load(demo, ["train_vqvae.task.model={encoder: {channels: 48}}"]).train_vqvae.task.model
    assert model == replace(tiny, encoder=replace(tiny.encoder, channels=48))
    paper = load(demo, ["train_ar.task={preset: d24, model: {heads: 8}}"]).train_ar
    assert paper.task.model == replace(AR_PRESETS["d24"], heads=8)
    assert ARTaskConfig(preset="d16").model == AR_PRESETS["d16"]
    # What decides the output is the preset's name and what differs from it.
    assert identity(paper)["task"]["model"] == {"heads": 8}
    assert identity(VQVAETaskConfig(model=replace(tiny, resolution=32)))["model"] == {"resolution": 32}
    for word, near in (
        ("encoder.chanels=3", "encoder.channels"),
        ("quantizer.codebok_size=3", "quantizer.codebook_size"),
    ):
        with pytest.raises(UserError, match=rf"did you mean train_vqvae\.task\.model\.{near}\?"):
            load(demo, [f"train_vqvae.task.model.{word}"])


def test_the_configurations_of_short_runs_are_short() -> None:
    files = [REPOSITORY / "configs" / f"{name}.yaml" for name in ("demo", "tiny", "tiny32", "tiny64")]
    assert sum(len(file.read_text().splitlines()) for file in files) <= 150
