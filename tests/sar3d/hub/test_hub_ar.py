"""Transformers on disk: our folders, the published checkpoints there and back, and what is refused."""

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.convert import add_command
from sar3d.ar import ARConfig, ARTransformer
from sar3d.errors import UserError
from sar3d.hub import convert_published, describe, digest, from_pretrained, save_pretrained, to_published
from sar3d.hub.ar import from_published, infer_config

OTHER = ARConfig(
    condition="text",
    depth=3,
    width=24,
    heads=3,
    mlp_ratio=2,
    codebook_size=20,
    code_dim=4,
    scales=(1, 2, 4),
    context_dim=768,
    pooled_dim=10,
)
"""Unlike the published ones in everything that names and shapes tell."""

SCALES = (1, 2, 4)


@pytest.fixture
def other() -> ARTransformer:
    torch.manual_seed(0)
    model = ARTransformer(OTHER)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


@pytest.fixture
def tensors(other: ARTransformer) -> dict[str, Tensor]:
    """With the constants that the published classes save beside the weights."""
    constants = {
        "lvl_1L": torch.zeros(1, 63, dtype=torch.long),
        "plane_1L": torch.zeros(1, 63, dtype=torch.long),
        "attn_bias_for_masking": torch.zeros(1, 1, 63, 63),
        "blocks.0.attn.zero_k_bias": torch.zeros(24),
        "blocks.2.cross_attn.zero_k_bias": torch.zeros(24),
    }
    return {name: tensor.clone() for name, tensor in to_published(other).items()} | constants


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def test_what_is_saved_comes_back(other: ARTransformer, tmp_path: Path) -> None:
    save_pretrained(other, tmp_path / "model", extra={"vqvae": "abc"})
    state = torch.get_rng_state()
    loaded = from_pretrained(tmp_path / "model", kind="ar")
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.config == OTHER
    assert not loaded.training
    assert same_weights(other, loaded)
    assert describe(tmp_path / "model")["extra"] == {"vqvae": "abc"}
    with pytest.raises(UserError, match="holds a model of kind ar, not vqvae"):
        from_pretrained(tmp_path / "model", kind="vqvae")


def test_the_digest_tells_image_and_text_models_apart(other: ARTransformer, tmp_path: Path) -> None:
    image = ARTransformer(dataclasses.replace(OTHER, condition="image"))
    image.load_state_dict(other.state_dict())
    save_pretrained(other, tmp_path / "text")
    save_pretrained(image, tmp_path / "image")
    assert digest(tmp_path / "text") != digest(tmp_path / "image")


@pytest.mark.parametrize(
    ("name", "kind", "depth", "count"),
    [
        ("keys_ar_image", "image", 24, 1_243_270_912),
        ("keys_ar_image_d16", "image", 16, 391_449_088),
        ("keys_ar_text", "text", 16, 382_798_336),
    ],
)
def test_every_tensor_of_the_published_sizes_converts_and_comes_back(
    shared: Path, name: str, kind: str, depth: int, count: int
) -> None:
    content = json.loads((shared / "goldens" / f"{name}.json").read_text())
    with torch.device("meta"):
        model = from_published({n: torch.empty(key["shape"]) for n, key in content["keys"].items()}, name)
        back = to_published(model)
    published = {n: key["shape"] for n, key in content["keys"].items() if key["kind"] == "param"}
    assert {n: list(tensor.shape) for n, tensor in back.items()} == published
    assert sum(p.numel() for p in model.parameters()) == content["total_params"] == count
    assert (model.config.condition, model.config.depth, model.config.width) == (kind, depth, 64 * depth)


def test_a_published_file_comes_back_to_the_bit(shared: Path) -> None:
    path = shared / "goldens" / "tiny_ar_image.safetensors"
    model = convert_published(path)
    assert (model.config.heads, model.config.condition) == (4, "image")
    back = to_published(model)
    published = {n: t for n, t in load_file(path).items() if not n.endswith("zero_k_bias")}
    assert back.keys() == published.keys()
    assert all(torch.equal(back[name], tensor.float()) for name, tensor in published.items())


def test_the_configuration_is_read_from_names_and_shapes(tensors: dict[str, Tensor]) -> None:
    assert infer_config(tensors, "other", scales=SCALES) == OTHER
    assert infer_config(tensors, "other", scales=SCALES, condition="image").condition == "image"


@pytest.mark.parametrize("wrapper", [None, "state_dict", "trainer", "module."])
@pytest.mark.parametrize("legacy", [False, True])
def test_wrappers_of_pytorch_checkpoints(
    other: ARTransformer, tensors: dict[str, Tensor], tmp_path: Path, wrapper: str | None, legacy: bool
) -> None:
    content: Any = tensors
    if wrapper == "module.":
        content = {f"module.{n}": t for n, t in tensors.items()}
    elif wrapper == "state_dict":
        content = {"state_dict": tensors}
    elif wrapper == "trainer":
        vae = {"encoder.conv_in.weight": torch.zeros(3)}
        inner = {
            "config": {"depth": 3},
            "var_wo_ddp": tensors,
            "vae_local": vae,
            "var_opt": {"optimizer": {"state": {}}},
        }
        content = {"epoch": 4, "iter": 0, "trainer": inner, "args": {"bs": 7}}
    torch.save(content, tmp_path / "ar.pth", _use_new_zipfile_serialization=not legacy)
    model = convert_published(tmp_path / "ar.pth", scales=SCALES)
    assert model.config == OTHER
    assert same_weights(other, model)


def test_safetensors(other: ARTransformer, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    save_file({n: t.half() if t.is_floating_point() else t for n, t in tensors.items()}, tmp_path / "ar.safetensors")
    model = convert_published(tmp_path / "ar.safetensors", scales=SCALES)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.pos_embed, other.pos_embed, atol=1e-3, rtol=1e-3)


class Code:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_with_code_is_refused_and_not_run(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"trainer": {"var_wo_ddp": tensors, "config": Code(marker)}}, tmp_path / "ar.pth")
    with pytest.raises(UserError, match=r"loading it would call posix\.system, so nothing was loaded") as caught:
        convert_published(tmp_path / "ar.pth")
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_truncated_files_are_one_sentence(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    for name, sentence in (("ar.pth", "damaged or no PyTorch"), ("ar.safetensors", "truncated or no safetensors")):
        path = tmp_path / name
        if path.suffix == ".pth":
            torch.save({"trainer": {"var_wo_ddp": tensors}}, path)
        else:
            save_file(tensors, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=sentence) as caught:
            convert_published(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"encoder.conv_in.weight": torch.zeros(1)}, r"which no published SAR3D transformer has"),
        ({"blocks.1.ffn.fc1.bias": None}, r"lacks the tensor blocks\.1\.mlp\.0\.bias"),
        ({"head.weight": None}, r"lacks the tensor head\.weight: it is incomplete or no published SAR3D transformer"),
        ({"pos_1LC": torch.zeros(63, 24)}, r"pos_1LC as \[63, 24\], where 3 dimensions belong"),
        ({"pos_1LC": torch.zeros(1, 60, 24)}, r"trained with 3 scales of 20 tokens a plane, not with 1,2,4"),
        ({"pos_start": torch.zeros(2, 1, 24)}, r"tensor start_embed as \[2, 1, 24\] where the model has \[24\]"),
        ({"blocks.0.ffn.fc1.weight": torch.zeros(50, 24)}, "with 50 rows, no multiple of 24"),
        ({"blocks.0.attn.scale_mul_1H11": torch.zeros(1, 5, 1, 1)}, "width of 24, which 5 heads do not divide"),
        ({"head.weight": torch.zeros(20, 24, dtype=torch.long)}, r"head\.linear\.weight in torch\.int64"),
        ({"pos_1LC": None}, "no published SAR3D checkpoint"),
    ],
)
def test_checkpoints_that_are_no_transformer(
    tmp_path: Path, tensors: dict[str, Tensor], change: dict[str, Tensor | None], sentence: str
) -> None:
    torch.save({n: t for n, t in {**tensors, **change}.items() if t is not None}, tmp_path / "ar.pth")
    with pytest.raises(UserError, match=sentence) as caught:
        convert_published(tmp_path / "ar.pth", scales=SCALES)
    assert "\n" not in str(caught.value)


def test_what_shapes_do_not_tell_must_be_given(other: ARTransformer, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match=r"3 scales of 21 tokens a plane, not with 1,2,3,.* with --scales"):
        from_published(tensors, "other")
    narrow = ARTransformer(dataclasses.replace(OTHER, context_dim=384))
    with pytest.raises(UserError, match=r"conditions of 384 channels, which does not tell .* with --condition"):
        from_published(to_published(narrow), "other", scales=SCALES)
    found = from_published(to_published(narrow), "other", scales=SCALES, condition="image")
    assert (found.config.condition, found.config.context_dim) == ("image", 384)


def test_options_that_do_not_concern_the_checkpoint(shared: Path) -> None:
    goldens = shared / "goldens"
    with pytest.raises(UserError, match="transformer, whose tensors tell its heads"):
        convert_published(goldens / "tiny_ar_image.safetensors", decoder_heads=3)
    with pytest.raises(UserError, match="VQVAE, which knows no condition"):
        convert_published(goldens / "tiny_vqvae.safetensors", condition="text")


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers())
    parsed = parser.parse_args(["convert", *words])
    code: int = parsed.call(parsed)
    return code


def test_the_command_says_what_it_inferred(
    other: ARTransformer, tensors: dict[str, Tensor], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = str(tmp_path / "ar.pth"), str(tmp_path / "out")
    torch.save({"trainer": {"var_wo_ddp": tensors}}, checkpoint)
    assert command(checkpoint, "--out", out, "--scales", "1,2,4") == 0
    said = capfd.readouterr().err
    assert f"a published transformer of {sum(p.numel() for p in other.parameters()):,} parameters" in said
    assert "3 blocks × 24, 3 heads, 20 codes of 4" in said
    assert "shapes do not tell it: --condition text" in " ".join(said.split())
    assert same_weights(other, from_pretrained(out, kind="ar"))
    assert command(checkpoint, "--out", out, "--scales", "1,2,4", "--condition", "image") == 0
    assert "taken for granted" not in capfd.readouterr().err
    assert from_pretrained(out, kind="ar").config.condition == "image"
