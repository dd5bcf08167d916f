"""Every input of ../shared/cases that is no object file gives what its expect.json says (objects: see meshes/test_cases.py).

Those with a run.sh need a cluster or a tracker: the long proofs run them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from ray_cluster import REPOSITORY

from pipelines.generating.prompts import file_items
from pipelines.registry import load
from pipelines.sources.captions import CaptionsConfig, read_captions
from pipelines.sources.directory import DirectoryConfig, DirectorySource
from pipelines.sources.uids import read_uids
from sar3d.errors import ObjectError, UserError
from sar3d.generate.prompts import check_text
from sar3d.pictures import read_picture
from sar3d.procedural import build_glb, listing

CASES = REPOSITORY.parent / "shared" / "cases"
EXPECTED: dict[Path, dict[str, Any]] = {
    file.parent: json.loads(file.read_text())["expect"] for file in sorted(CASES.glob("*/expect.json"))
}
OTHERS = [folder for folder, expect in EXPECTED.items() if "triangles" not in expect]
RUN = [folder for folder in OTHERS if (folder / "run.sh").exists()]
READ = [folder for folder in OTHERS if folder not in RUN]
pytestmark = pytest.mark.skipif(not OTHERS, reason="the folder ../shared/cases is not here")


def sentence(call: Callable[[], Any]) -> str:
    """What a request is refused with."""
    with pytest.raises((UserError, ObjectError)) as caught:
        call()
    return str(caught.value)


def path_with_hash(folder: Path, out: Path) -> None:
    words = [f"root={out}/run #1", f"download.directory.path={folder}/my objects #2"]
    config = load(str(REPOSITORY / "configs/objects.yaml"), words)
    assert config.root == f"{out}/run #1"
    source = DirectorySource(config.download.directory)  # type: ignore[attr-defined]
    assert {item["path"] for item in source.items()} == {"one.glb", "two.glb"}


def cap3d_for_a_folder(folder: Path, out: Path) -> None:
    source = DirectorySource(DirectoryConfig(f"{folder}/glbs"), CaptionsConfig(f"{folder}/captions.csv"))
    assert [len(item["captions"]) for item in source.items()] == [1, 1, 1]


def uids_as_paths(folder: Path, out: Path) -> None:
    assert sorted(read_uids(f"{folder}/paths.txt", print)) == sorted(EXPECTED[folder]["read_uids"])


def captions_semicolons(folder: Path, out: Path) -> None:
    assert len(read_captions(f"{folder}/semi.csv", print)) == 2


def foreign_manifest(folder: Path, out: Path) -> None:
    shutil.copytree(folder, out / "objects", ignore=shutil.ignore_patterns("expect.json"))
    said = sentence(lambda: list(DirectorySource(DirectoryConfig(f"{out}/objects")).items()))
    assert "download.directory.manifest=none" in said


def emoji_prompt(folder: Path, out: Path) -> None:
    assert "holds no letter or digit" in sentence(lambda: check_text("🚀🚀"))


def picture_with_background(folder: Path, out: Path) -> None:
    (picture,) = folder.glob("*.png")
    assert "--remove-background" in (read_picture(picture.read_bytes()).note() or "")


def prompts_same_stem(folder: Path, out: Path) -> None:
    said = sentence(lambda: list(file_items(f"{folder}/same_stem.jsonl", ("text", "image"), 0)))
    assert "line 1 and line 2" in said
    assert "key id" in said


CHECKS: dict[str, Callable[[Path, Path], None]] = {
    "40_path_with_hash": path_with_hash,
    "42_cap3d_for_a_folder": cap3d_for_a_folder,
    "44_uids_as_paths": uids_as_paths,
    "46_captions_semicolons": captions_semicolons,
    "48_foreign_manifest": foreign_manifest,
    "60_emoji_prompt": emoji_prompt,
    "61_picture_with_background": picture_with_background,
    "62_photo_on_black": picture_with_background,
    "63_prompts_same_stem": prompts_same_stem,
}


@pytest.mark.parametrize("folder", READ, ids=lambda folder: folder.name)
def test_every_case_gives_what_it_should(folder: Path, tmp_path: Path) -> None:
    CHECKS[folder.name](folder, tmp_path)


def listens_on_loopback_alone(said: str, out: Path) -> None:
    sockets = [line.split()[3] for line in said.splitlines() if line.startswith("LISTEN")]
    assert sockets, said
    assert all(address.startswith(("127.0.0.1:", "[::1]:")) for address in sockets), said


def second_run_lives_or_says_why(said: str, out: Path) -> None:
    assert "Traceback" not in said
    assert re.search(r"^B: exit (0|2)$", said, re.MULTILINE), said
    assert "joined the Ray cluster" in said or "error: the Ray cluster at" in said or "asks for a token" in said, said


def long_folder_is_no_error(said: str, out: Path) -> None:
    assert "exit 0" in said or ("exit 2" in said and "TMPDIR" in said), said
    assert "Traceback" not in said


def recorded_again(said: str, out: Path) -> None:
    assert not list((out / "mldel").rglob("mlflow-spool*")), said
    client = mlflow.MlflowClient(f"sqlite:///{out}/mldel/mlflow.db")
    experiment = client.get_experiment_by_name("sar3d")
    assert experiment.lifecycle_stage == "active"
    assert len(client.search_runs([experiment.experiment_id])) == 3, "the parent, and a run for each listing"


def nothing_outside_the_new_root(said: str, out: Path) -> None:
    assert not list((out / "before").rglob("*")), said
    client = mlflow.MlflowClient(f"sqlite:///{out}/after/mlflow.db")
    experiment = client.get_experiment_by_name("sar3d")
    runs = [r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == "download"]
    assert len(runs) == 2
    assert all(client.list_artifacts(run.info.run_id) for run in runs)


RUN_CHECKS: dict[str, Callable[[str, Path], None]] = {
    "50_ray_open_to_the_network": listens_on_loopback_alone,
    "51_two_runs_on_one_machine": second_run_lives_or_says_why,
    "52_long_tmpdir": long_folder_is_no_error,
    "53_mlflow_experiment_deleted": recorded_again,
    "55_root_moved": nothing_outside_the_new_root,
}


@pytest.mark.slow
@pytest.mark.acceptance("Each case of ../shared/cases that takes a cluster or a tracker gives what it should")
@pytest.mark.parametrize("folder", RUN, ids=lambda folder: folder.name)
def test_every_case_that_runs_gives_what_it_should(folder: Path, tmp_path: Path) -> None:
    checkout, objects = tmp_path / "checkout", tmp_path / "objects"
    (checkout / ".venv").mkdir(parents=True)
    (checkout / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (checkout / "configs").symlink_to(REPOSITORY / "configs")
    objects.mkdir()
    for uid, _ in listing(120):
        (objects / f"{uid}.glb").write_bytes(build_glb(uid))
    out = tmp_path / "out"
    out.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    environment |= {"SAR3D": str(checkout), "OUT": str(out), "OBJECTS": str(objects)}
    environment |= {"GLB": str(next(objects.iterdir())), "PYTHONPATH": str(REPOSITORY)}
    command = ["bash", str(folder / "run.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    RUN_CHECKS[folder.name](done.stdout + done.stderr, out)
