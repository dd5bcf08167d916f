"""The models of a system are found in a bundle, in a pipeline's root, and at URLs; those that belong together."""

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from sar3d.errors import UserError
from sar3d.generate.folders import find_folders


def write(folder: Path, kind: str, extra: dict[str, Any] | None = None, condition: str = "") -> Path:
    """A saved model whose weights nobody reads."""
    folder.mkdir(parents=True)
    values = {"kind": kind, "format": 1, "config": {"condition": condition}, "extra": extra or {}}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def trained(output: Path, finished: float, digest: str, *model: Any) -> Path:
    """A finished output of a training stage."""
    write(output / "model", *model)
    (output / "_SUCCESS").write_text(json.dumps({"finished": finished, "model": digest}))
    return output / "model"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two VQVAEs, of which the newest generator was trained with the older one."""
    root = tmp_path / "root"
    trained(root / "train_vqvae" / "aa", 1.0, "old", "vqvae")
    trained(root / "train_vqvae" / "bb", 2.0, "new", "vqvae")
    trained(root / "train_ar" / "aa", 3.0, "1", "ar", {"vqvae": "old"}, "text")
    trained(root / "train_ar" / "bb", 4.0, "2", "ar", {"vqvae": "old"}, "text")
    trained(root / "train_ar_image" / "aa", 3.5, "3", "ar", {"vqvae": "new"}, "image")
    trained(root / "train_llm" / "aa", 5.0, "4", "llm", {"vqvae": "old"})
    write(root / "train_llm" / "unfinished" / "model", "llm", {"vqvae": "old"})
    (root / "render" / "aa").mkdir(parents=True)
    (root / "render" / "aa" / "_SUCCESS").write_text("{}")
    return root


def test_a_root_gives_the_newest_models_that_belong_together(root: Path) -> None:
    found = find_folders(root)
    assert found.vqvae == root / "train_vqvae/aa/model"
    assert found.generators == {"text": root / "train_ar/bb/model"}
    assert found.captioner == root / "train_llm/aa/model"


def test_a_root_and_a_bundle_at_urls_are_fetched(root: Path, tmp_path: Path) -> None:
    for name in ("vqvae", "llm"):
        write(tmp_path / "bundle" / name, name)
    write(tmp_path / "bundle" / "ar_image", "ar", None, "image")
    fs = fsspec.filesystem("memory")
    fs.put(str(root), "/found/root", recursive=True)
    fs.put(str(tmp_path / "bundle"), "/found/bundle", recursive=True)
    for url, kind in (("memory://found/root", "text"), ("memory://found/bundle", "image")):
        found = find_folders(url)
        assert list(found.generators) == [kind]
        for folder in (found.vqvae, found.captioner, *found.generators.values()):
            assert folder is not None
            assert (folder / "model.safetensors").read_bytes() == b"weights"
    with pytest.raises(UserError, match="memory://found/nothing names no generator"):
        find_folders("memory://found/nothing")
