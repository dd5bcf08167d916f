"""The published checkpoints: names and shapes there and back, inferred sizes, and what is refused."""

import argparse
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.convert import add_command
from sar3d.errors import UserError
from sar3d.hub import convert_published, from_pretrained, save_pretrained, to_published
from sar3d.hub.vqvae import from_published, infer_config, usual_heads
from sar3d.vqvae import PRESETS, VQVAE, VQVAEConfig
from sar3d.vqvae.config import DecoderConfig, EncoderConfig, FieldConfig, QuantizerConfig

OTHER = VQVAEConfig(
    resolution=64,
    encoder=EncoderConfig(
        channels=24, multipliers=(1, 3, 2), blocks=1, attention_width=48, attention_heads=3, views=4, in_channels=9
    ),
    quantizer=QuantizerConfig(codebook_size=40, code_dim=4, phi=3, rule="published"),
    decoder=DecoderConfig(
        width=32, depth=3, heads=4, mlp_ratio=2, channels=8, multipliers=(1, 3), blocks=1, plane_channels=6
    ),
    field=FieldConfig(hidden=16, hidden_layers=2),
)
"""Unlike the published one in everything that names and shapes tell."""

CODEBOOK = "decoder.superresolution.quantize.embedding.weight"
HITS = "decoder.superresolution.quantize.ema_vocab_hit_SV"


@pytest.fixture
def other() -> VQVAE:
    torch.manual_seed(0)
    model = VQVAE(OTHER)
    model.quantizer.hits.uniform_()
    return model


@pytest.fixture
def tensors(other: VQVAE) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in to_published(other).items()}


def keys(shared: Path, name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((shared / "goldens" / f"{name}.json").read_text())["keys"]
    return found


def test_every_tensor_of_the_published_size_converts_and_comes_back(shared: Path) -> None:
    published = keys(shared, "keys_vqvae")
    with torch.device("meta"):
        model = from_published({name: torch.empty(key["shape"]) for name, key in published.items()}, "keys")
        back = to_published(model)
    assert {name: list(tensor.shape) for name, tensor in back.items()} == {n: k["shape"] for n, k in published.items()}
    assert sum(p.numel() for p in model.parameters()) == 176_242_116
    assert model.config.quantizer.rule == "published"
    paper = PRESETS["paper"]
    assert (model.config.encoder, model.config.decoder) == (paper.encoder, paper.decoder)
    assert (model.config.field, model.config.volume) == (paper.field, paper.volume)


def test_a_published_file_comes_back_to_the_bit(shared: Path) -> None:
    path = shared / "goldens" / "tiny_vqvae.safetensors"
    model = convert_published(path)
    assert (model.config.decoder.heads, model.config.encoder.attention_heads) == (3, 2)
    back, published = to_published(model), load_file(path)
    assert back.keys() == published.keys()
    assert all(torch.equal(back[name], tensor.float()) for name, tensor in published.items())


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (96, 3), (512, 8), (32, 2), (384, 6), (7, 1)])
def test_usual_heads(width: int, heads: int) -> None:
    assert usual_heads(width) == heads


def test_the_configuration_is_read_from_names_and_shapes(tensors: dict[str, Tensor]) -> None:
    assert infer_config(tensors, "other", decoder_heads=4, encoder_heads=3) == OTHER


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "ema", "module."])
@pytest.mark.parametrize("legacy", [False, True])
def test_wrappers_of_pytorch_checkpoints(
    other: VQVAE, tensors: dict[str, Tensor], tmp_path: Path, wrapper: str | None, legacy: bool
) -> None:
    content: Any = {f"module.{n}": t for n, t in tensors.items()} if wrapper == "module." else tensors
    if wrapper in ("state_dict", "model", "ema"):
        content = {"step": 7, wrapper: tensors}
    torch.save(content, tmp_path / "vqvae.pt", _use_new_zipfile_serialization=not legacy)
    model = convert_published(tmp_path / "vqvae.pt", decoder_heads=4, encoder_heads=3)
    assert model.config == OTHER
    ours = model.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in other.state_dict().items())


def test_hits_and_unused_buffers_may_be_missing(tensors: dict[str, Tensor]) -> None:
    del tensors[HITS], tensors["decoder.w_avg"]
    assert not from_published(tensors, "other", decoder_heads=4, encoder_heads=3).quantizer.hits.any()


def test_biases_of_the_fused_mlp_are_dropped_only_if_zero(tensors: dict[str, Tensor]) -> None:
    name = "decoder.vit_decoder.blocks.1.mlp.mlp.1.bias"
    tensors[name] = torch.zeros(64)
    assert from_published(tensors, "other", decoder_heads=4, encoder_heads=3).config == OTHER
    tensors[name][3] = 1e-3
    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.mlp\.1\.bias that is not zero"):
        from_published(tensors, "other")


def test_scales_that_shapes_do_not_tell_must_be_given(tensors: dict[str, Tensor]) -> None:
    tensors[HITS] = tensors[HITS][:3]
    with pytest.raises(UserError, match=r"trained with 3 scales up to 16, .* give its scales with --scales"):
        from_published(tensors, "other")
    assert from_published(tensors, "other", scales=(1, 4, 16)).config.quantizer.scales == (1, 4, 16)


def test_normalized_codes_are_published_with_unit_norm(tensors: dict[str, Tensor]) -> None:
    tensors[CODEBOOK] *= 3
    model = from_published(tensors, "other", decoder_heads=4, encoder_heads=3)
    assert torch.equal(to_published(model)[CODEBOOK], tensors[CODEBOOK])
    normalized = VQVAE(VQVAEConfig(quantizer=QuantizerConfig(codebook_size=40, code_dim=4, phi=3), **rest(OTHER)))
    normalized.load_state_dict(model.state_dict())
    torch.testing.assert_close(to_published(normalized)[CODEBOOK].norm(dim=1), torch.ones(40))


def rest(config: VQVAEConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("resolution", "encoder", "decoder", "field")}


def test_what_the_published_format_cannot_hold() -> None:
    with torch.device("meta"):
        model = VQVAE(PRESETS["tiny"])
    with pytest.raises(UserError, match="a first convolution of stride 4, which the published format cannot hold"):
        to_published(model)


class Code:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ("zip", r"loading it would call posix\.system, so nothing was loaded"),
        ("legacy", r"loading it would call posix\.system, so nothing was loaded"),
        ("plain", "is damaged or no PyTorch checkpoint"),
    ],
)
def test_a_pickle_with_code_is_refused_and_not_run(
    tensors: dict[str, Tensor], tmp_path: Path, form: str, sentence: str
) -> None:
    path, marker = tmp_path / "vqvae.pt", tmp_path / "ran"
    content = {"state_dict": tensors, "more": Code(marker)}
    if form == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError, match=sentence) as caught:
        convert_published(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def broken(tmp_path: Path, tensors: dict[str, Tensor], how: str) -> Path:
    path = tmp_path / ("vqvae.safetensors" if "safetensors" in how else "vqvae.pt")
    if how == "nothing there":
        return path
    if "safetensors" in how:
        save_file(tensors, path)
    else:
        torch.save({"no tensors": 1} if how == "no tensors" else tensors, path)
    data = path.read_bytes()
    if "truncated" in how:
        path.write_bytes(data[: len(data) // 2])
    if how == "noise":
        path.write_bytes(bytes(range(256)) * 4)
    if how == "empty":
        path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("nothing there", "there is no file"),
        ("truncated safetensors", "truncated or no safetensors file"),
        ("truncated", "damaged or no PyTorch checkpoint"),
        ("noise", "damaged or no PyTorch checkpoint"),
        ("empty", "damaged or no PyTorch checkpoint"),
        ("no tensors", "no flat dictionary of tensors"),
    ],
)
def test_broken_files_are_one_sentence(tmp_path: Path, tensors: dict[str, Tensor], how: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        convert_published(broken(tmp_path, tensors, how))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"head.weight": torch.zeros(1)}, r"has the tensor head\.weight, which no published SAR3D VQVAE has"),
        ({"encoder.norm_out.bias": None}, r"lacks the tensor encoder\.norm_out\.bias"),
        ({"encoder.conv_in.weight": None}, r"lacks the tensor encoder\.conv_in\.weight"),
        ({"encoder.conv_in.weight": torch.zeros(24)}, r"encoder\.conv_in\.weight as \[24\], where 4 dimensions belong"),
        ({"encoder.down.1.block.0.conv1.weight": torch.zeros(7, 24, 3, 3)}, "with 7 rows, no multiple of 24"),
        ({"encoder.norm_out.bias": torch.zeros(5)}, r"encoder\.norm_out\.bias as \[5\] where the model has \[48\]"),
        ({CODEBOOK: None}, "no published SAR3D checkpoint"),
    ],
)
def test_checkpoints_that_are_no_vqvae(
    tmp_path: Path, tensors: dict[str, Tensor], change: dict[str, Tensor | None], sentence: str
) -> None:
    changed = {n: t for n, t in {**tensors, **change}.items() if t is not None}
    torch.save(changed, tmp_path / "vqvae.pt")
    with pytest.raises(UserError, match=sentence):
        convert_published(tmp_path / "vqvae.pt", decoder_heads=4, encoder_heads=3)


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers())
    parsed = parser.parse_args(["convert", *words])
    code: int = parsed.call(parsed)
    return code


def test_the_command_says_what_it_inferred(
    other: VQVAE, tensors: dict[str, Tensor], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = str(tmp_path / "vqvae.pt"), str(tmp_path / "out")
    torch.save(tensors, checkpoint)
    assert command(checkpoint, "--out", out, "--decoder-heads", "4") == 0
    said = capfd.readouterr().err
    assert f"{sum(p.numel() for p in other.parameters()):,} parameters" in said
    assert "40 codes of 4" in said
    assert "--encoder-heads 3" in said
    assert "--decoder-heads" not in said
    model = from_pretrained(out, kind="vqvae")
    assert model.config == OTHER
    assert command(checkpoint, "--out", out) == 0  # an earlier conversion is replaced
    save_pretrained(model, out)
    with pytest.raises(UserError, match="holds a model that was not converted"):
        command(checkpoint, "--out", out)


def test_the_command_writes_nothing_on_error(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    del tensors["encoder.norm_out.bias"]
    torch.save(tensors, tmp_path / "vqvae.pt")
    with pytest.raises(UserError, match="lacks the tensor"):
        command(str(tmp_path / "vqvae.pt"), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
