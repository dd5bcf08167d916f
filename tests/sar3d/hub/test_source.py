"""Models come from a folder, a URL or a repository of the hub, and say on their card what they are."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from sar3d.errors import UserError
from sar3d.hub import describe, digest, from_pretrained, save_pretrained
from sar3d.hub.source import Source
from sar3d.vqvae.config import PRESETS
from sar3d.vqvae.model import VQVAE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("saved") / "model"
    save_pretrained(VQVAE(PRESETS["tiny"]), place, extra={"steps": 3})
    return place


def same(one: torch.nn.Module, folder: Path) -> bool:
    other = from_pretrained(folder).state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.state_dict().items())


def test_the_card_says_what_it_is_and_how_it_is_loaded(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sar3d\n")
    assert "# Multi-scale 3D VQVAE" in card
    assert digest(folder) in card
    assert json.loads(re.findall(r"```json\n(.*?)```", card, re.DOTALL)[0]) == describe(folder)["config"]
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    made: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(folder)), made)
    assert same(made["model"], folder)


def test_a_model_is_loaded_from_a_url(folder: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.put(str(folder), "/models/tokenizer", recursive=True)
    assert same(from_pretrained("memory://models/tokenizer", kind="vqvae"), folder)
    with pytest.raises(UserError, match=r"memory://models/none holds no model: it has no config\.json"):
        from_pretrained("memory://models/none")
    with pytest.raises(UserError, match="nosuchscheme://models cannot be read"):
        from_pretrained("nosuchscheme://models")


def test_a_model_is_loaded_from_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, tuple(allow_patterns)))
        for pattern in allow_patterns:
            shutil.copy(folder / pattern, tmp_path / pattern)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert same(from_pretrained("someone/tokenizer@v1"), folder)
    assert asked == [
        ("someone/tokenizer", "v1", ("config.json",)),
        ("someone/tokenizer", "v1", ("model.safetensors",)),
    ]


def test_without_the_hub_it_is_one_sentence() -> None:
    with pytest.raises(UserError, match="there is no folder someone/tokenizer here, and the repository") as raised:
        from_pretrained("someone/tokenizer")
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="there is no folder a/longer/path with a model"):
        from_pretrained("a/longer/path")


def test_a_strangers_names_of_files_stay_inside_the_folder() -> None:
    source = Source("memory://models")
    for name in ("lm/../../outside", "/etc/outside"):
        with pytest.raises(UserError, match="lies outside its folder"):
            source.fetch([name])
