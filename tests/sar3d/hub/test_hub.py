"""A model's folder: what is saved comes back, and what is damaged or of another kind is one sentence."""

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sar3d.errors import UserError
from sar3d.hub import describe, digest, from_pretrained, save_pretrained
from sar3d.vqvae import VQVAE, VQVAEConfig
from sar3d.vqvae.config import DecoderConfig, EncoderConfig, FieldConfig, QuantizerConfig

MICRO = VQVAEConfig(
    resolution=16,
    encoder=EncoderConfig(channels=8, multipliers=(1, 2), blocks=1, attention_width=16, attention_heads=2, views=3),
    quantizer=QuantizerConfig(codebook_size=32, code_dim=4, scales=(1, 2, 4)),
    decoder=DecoderConfig(width=24, depth=2, heads=2, channels=8, multipliers=(1, 2), blocks=1, plane_channels=5),
    field=FieldConfig(hidden=8, hidden_layers=1),
)


@pytest.fixture
def model() -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(MICRO)


@pytest.fixture
def folder(model: VQVAE, tmp_path: Path) -> Path:
    save_pretrained(model, tmp_path / "model", extra={"steps": 3})
    return tmp_path / "model"


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: t.clone() for name, t in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_what_is_saved_comes_back(model: VQVAE, folder: Path) -> None:
    with torch.no_grad():
        model(torch.randn(1, 3, 10, 16, 16))  # the hits of the codes are part of the model
    save_pretrained(model, folder, extra={"steps": 4})
    state = torch.get_rng_state()
    loaded = from_pretrained(folder, kind="vqvae")
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.config == model.config
    assert not loaded.training
    assert loaded.quantizer.hits.any()
    theirs = loaded.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
    assert describe(folder)["extra"] == {"steps": 4}
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert from_pretrained(folder / "model.safetensors").config == model.config
    modes = {p.stat().st_mode for p in folder.iterdir()}
    assert len(modes) == 1  # whoever may read one may read the other


def test_the_digest_tells_weights_and_configuration_apart(model: VQVAE, folder: Path, tmp_path: Path) -> None:
    first = digest(folder)
    save_pretrained(model, tmp_path / "same", extra={"steps": 9})
    assert digest(tmp_path / "same") == first
    published = dataclasses.replace(MICRO, quantizer=dataclasses.replace(MICRO.quantizer, rule="published"))
    other_rule = VQVAE(published)
    other_rule.load_state_dict(model.state_dict())
    save_pretrained(other_rule, tmp_path / "rule")
    assert digest(tmp_path / "rule") != first
    with torch.no_grad():
        model.quantizer.codebook[0] += 1e-3
    save_pretrained(model, tmp_path / "weights")
    assert digest(tmp_path / "weights") != first


def test_an_interrupted_save_leaves_no_mixture(model: VQVAE, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def stop_before_config(path: Path, target: Path) -> Path:
        if target.name == "config.json":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stop_before_config)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(model, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "model.safetensors"]
    with pytest.raises(UserError, match=r"it has no config\.json"):
        from_pretrained(folder)


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weights": [1.0]}))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "truncated or no safetensors file"),
    "a pickle by that name": (as_pickle, "truncated or no safetensors file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"has no model\.safetensors"),
    "a missing tensor": (
        lambda f: edit_tensors(f, lambda t: t.pop("quant_conv.bias")),
        r"lacks the tensor quant_conv\.bias",
    ),
    "two missing tensors": (
        lambda f: edit_tensors(f, lambda t: (t.pop("quant_conv.bias"), t.pop("quant_conv.weight"))),
        r"lacks the tensor quant_conv\.bias and 1 more",
    ),
    "an unknown tensor": (
        lambda f: edit_tensors(f, lambda t: t.update(extra=torch.zeros(1))),
        "has the tensor extra, which the model has not",
    ),
    "another shape": (
        lambda f: edit_tensors(f, lambda t: t.update({"quantizer.codebook": torch.zeros(33, 4)})),
        r"quantizer\.codebook as \[33, 4\] where the model has \[32, 4\]",
    ),
    "whole numbers": (
        lambda f: edit_tensors(f, lambda t: t.update({"quant_conv.bias": torch.zeros(4, dtype=torch.long)})),
        r"quant_conv\.bias in torch\.int64",
    ),
    "another kind": (lambda f: edit(f, lambda c: c.update(kind="teapot")), "kind 'teapot', which is none of vqvae"),
    "a later format": (lambda f: edit(f, lambda c: c.update(format=2)), "format 2, this version reads 1"),
    "no configuration": (lambda f: edit(f, lambda c: c.pop("config")), "has no configuration"),
    "an unknown setting": (lambda f: edit(f, lambda c: c["config"].update(color=1)), "wrong at color"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
    "no JSON object": (lambda f: (f / "config.json").write_text("[]"), "holds no JSON object"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_sentence(folder: Path, damage: str) -> None:
    do, sentence = DAMAGES[damage]
    do(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        from_pretrained(tmp_path / "nowhere")
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="convert it with `sar3d convert`"):
        from_pretrained(tmp_path / "model.pt")


def test_the_wanted_kind(folder: Path) -> None:
    with pytest.raises(UserError, match="holds a model of kind vqvae, not transformer"):
        from_pretrained(folder, kind="transformer")


def test_a_folder_that_cannot_be_written(model: VQVAE, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be saved in"):
        save_pretrained(model, tmp_path / "file")


def test_only_known_kinds_are_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Linear is no kind of model"):
        save_pretrained(torch.nn.Linear(1, 1), tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
