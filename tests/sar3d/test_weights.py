"""The registry of pretrained weights: where they are looked for, in which order, and what is refused."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.cli import main
from sar3d.errors import UserError
from sar3d.weights import FOLDER, REGISTRY, HubModel, UrlFile, fetch, inventory, is_published, locate

DATA = b"the published file"
PREFIX = hashlib.sha256(DATA).hexdigest()[:8]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UrlFile:
    """The entry `inception` with a file of ours; no cache, no folder, downloads allowed."""
    (tmp_path / "origin").mkdir()
    file = tmp_path / "origin" / f"net-{PREFIX}.pth"
    file.write_bytes(DATA)
    made = UrlFile(file.as_uri(), PREFIX)
    monkeypatch.setitem(REGISTRY, "inception", replace(REGISTRY["inception"], source=made))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return made


def test_the_order_is_path_folder_cache_download(
    source: UrlFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded = locate("inception")
    assert downloaded == tmp_path / "cache" / "checkpoints" / source.local_name
    (tmp_path / "origin" / source.local_name).unlink()
    assert locate("inception") == downloaded, "the cache needs no download"
    monkeypatch.setenv(FOLDER, str(tmp_path / "folder"))
    assert locate("inception") == downloaded, "a folder that lacks the file is passed over"
    carried = fetch("inception")
    assert carried == tmp_path / "folder" / source.local_name
    assert carried.read_bytes() == DATA
    assert locate("inception") == carried
    (tmp_path / "own.pth").write_bytes(b"own weights")
    assert locate("inception", str(tmp_path / "own.pth")) == tmp_path / "own.pth"
    assert is_published("inception", carried)
    assert not is_published("inception", tmp_path / "own.pth")


def test_what_is_not_the_published_file_is_refused(
    source: UrlFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / source.local_name).write_bytes(DATA[:-1])
    monkeypatch.setenv(FOLDER, str(tmp_path / "folder"))
    assert {one.name: one.damaged for one in inventory()}["inception"]
    with pytest.raises(UserError, match="is not the published file of inception"):
        locate("inception")
    monkeypatch.delenv(FOLDER)
    (tmp_path / "origin" / source.local_name).write_bytes(b"something else")
    with pytest.raises(UserError, match="is not the published file"):
        locate("inception")
    with pytest.raises(UserError, match=r"are not at nowhere/x\.pth: set inception to their path"):
        locate("inception", "nowhere/x.pth", "inception")
    with pytest.raises(UserError, match="no weights 'fid': choose from"):
        locate("fid")


def test_without_a_network_one_sentence_says_what_to_do(source: UrlFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=rf"run `sar3d weights fetch inception --to DIR`.* set {FOLDER}=DIR"):
        locate("inception")


def test_a_models_folder_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "dinov2-large"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert isinstance(REGISTRY["dinov2"].source, HubModel)
    assert locate("dinov2") == folder


def test_the_command_lists_and_fetches(
    source: UrlFile, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["weights", "--json"]) == 0
    before = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(before) == set(REGISTRY)
    assert before["inception"]["path"] is None
    assert before["minilm"]["path"] is not None
    assert all(row["license"] and row["megabytes"] for row in before.values())
    assert main(["weights", "fetch", "inception", "lpips-heads", "--to", str(tmp_path / "carry")]) == 0
    assert sorted(p.name for p in (tmp_path / "carry").iterdir()) == [source.local_name, "torchmetrics-vgg.pth"]
    monkeypatch.setenv(FOLDER, str(tmp_path / "carry"))
    assert main(["weights"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("inception"))
    assert " here " in line
    assert main(["weights", "fetch", "fid"]) == 2
