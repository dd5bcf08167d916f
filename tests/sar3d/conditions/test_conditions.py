"""Condition encoders: shapes, the published preparation of pictures, weights that are missing or broken."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sar3d.camera_layout import CameraLayoutConfig
from sar3d.conditions import ENCODERS, encoder_id, load_encoder
from sar3d.conditions.base import IMAGENET_MEAN, IMAGENET_STD, normalize, resize_and_crop
from sar3d.data.formats.views import decode_row
from sar3d.errors import UserError
from sar3d.meshes import MeshLimits
from sar3d.procedural import build_glb, catalog
from sar3d.render.worker import handle, rows


def _bytes_vocabulary() -> dict[str, int]:
    """A byte-level vocabulary as CLIP's, without merges: every letter is a token, and every last letter of a word."""
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,-"]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with random weights and both towers, laid out as the published repository."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

    folder = tmp_path_factory.mktemp("clip")
    vocabulary = _bytes_vocabulary()
    ends = {"bos_token_id": vocabulary["<|startoftext|>"], "eos_token_id": vocabulary["<|endoftext|>"]}
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = CLIPTextConfig(vocab_size=len(vocabulary), pad_token_id=ends["eos_token_id"], **size, **ends)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=CLIPVisionConfig(**size).to_dict()))
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DINOv2 with random weights."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dinov2")
    size = {"hidden_size": 32, "mlp_ratio": 2, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(Dinov2Config(image_size=518, patch_size=14, **size)).save_pretrained(folder)
    return folder


def pictures(count: int, height: int, width: int) -> np.ndarray:
    """Noise, smoothed so that resizing has something to keep."""
    noise = np.random.default_rng(0).integers(0, 256, (count, height // 8 + 1, width // 8 + 1, 3))
    return noise.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width].astype(np.uint8)


def test_clip_text_gives_the_towers_states_and_the_end_tokens_state(clip_folder: Path) -> None:
    from transformers import CLIPTextModel

    encoder = load_encoder("clip-text", str(clip_folder))
    assert (encoder.kind, encoder.shape, encoder.width) == ("text", (77, 32), 32)
    captions = ["a red car", "", "word " * 200]
    made = encoder.encode(captions)
    ids = encoder.prepare(captions)
    start, end = _bytes_vocabulary()["<|startoftext|>"], _bytes_vocabulary()["<|endoftext|>"]
    assert ids.shape == (3, 77)
    assert (ids[:, 0] == start).all()
    assert (ids[1, 1:] == end).all(), "the empty caption is its end and padding"
    assert ids[2, 76] == end, "a long caption is cut, with its end"
    with torch.no_grad():
        out = CLIPTextModel.from_pretrained(clip_folder).eval()(input_ids=ids)
    assert torch.allclose(made.tokens, out.last_hidden_state, atol=1e-6)
    # published.md, data: the empty caption's pooled vector is its token 1, the end token.
    assert torch.allclose(made.pooled[1], made.tokens[1, 1], atol=1e-6)
    assert torch.equal(encoder.empty().tokens[0], encoder.encode([""]).tokens[0])


def test_dinov2_gives_patches_and_the_class_token_apart(dinov2_folder: Path) -> None:
    from transformers import BitImageProcessorPil, Dinov2Model

    encoder = load_encoder("dinov2", str(dinov2_folder))
    assert (encoder.kind, encoder.shape, encoder.width) == ("image", (256, 32), 32)
    images = pictures(2, 320, 320)
    made = encoder.encode(images)
    assert made.tokens.shape == (2, 256, 32)
    processor = BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )
    pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = Dinov2Model.from_pretrained(dinov2_folder).eval()(pixel_values=pixels)
    assert torch.allclose(made.tokens, out.last_hidden_state[:, 1:], atol=1e-5)
    assert torch.allclose(made.pooled, out.pooler_output, atol=1e-5)
    white = encoder.encode(np.full((1, 128, 128, 3), 255, np.uint8))
    assert torch.equal(encoder.empty().tokens, white.tokens)
    assert not torch.allclose(white.pooled, made.pooled[:1], atol=1e-2)


@pytest.mark.parametrize("size", [(256, 256), (512, 512), (128, 128), (300, 451), (451, 300), (64, 64)])
def test_pictures_are_prepared_as_the_stock_processor_does(size: tuple[int, int]) -> None:
    from transformers import BitImageProcessorPil

    images = pictures(2, *size)
    processor = BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )
    expected = processor(images=list(images), return_tensors="pt")["pixel_values"]
    made = normalize(resize_and_crop(images, 256, 224), IMAGENET_MEAN, IMAGENET_STD, torch.zeros(1))
    assert torch.allclose(made, expected, atol=1e-6)


def test_minilm_tells_meanings_apart_and_ignores_its_padding() -> None:
    encoder = load_encoder("minilm")
    assert (encoder.kind, encoder.shape, encoder.width) == ("text", (77, 384), 384)
    made = encoder.encode(["a red car", "an automobile", "a wooden chair", ""])
    near, far = made.pooled[0] @ made.pooled[1], made.pooled[0] @ made.pooled[2]
    assert near > 0.6 > 0.4 > far
    assert torch.allclose(made.pooled.norm(dim=-1), torch.ones(4), atol=1e-5)
    # [CLS] a red car [SEP]
    assert (made.tokens[0, :5].abs().sum(-1) > 0).all()
    assert (made.tokens[0, 5:] == 0).all()
    alone = encoder.encode(["a red car"])
    assert torch.allclose(alone.tokens, made.tokens[:1], atol=1e-5)


def test_efficientnet_finds_the_same_object_in_another_view(tmp_path: Path) -> None:
    """Two views of each of eight built-in objects: the nearest picture of the other set shows the same object."""
    encoder = load_encoder("efficientnet-lite0")
    assert (encoder.kind, encoder.shape, encoder.width) == ("image", (49, 1280), 1280)
    pairs = np.stack([_two_views(made.uid, tmp_path) for made in catalog(8)])
    first, second = (encoder.encode(pairs[:, i]) for i in (0, 1))
    assert torch.allclose(first.tokens.mean(dim=1), first.pooled, atol=1e-5)
    nearest = torch.nn.functional.cosine_similarity(first.pooled[:, None], second.pooled[None], dim=-1).argmax(dim=1)
    assert (nearest == torch.arange(8)).sum() >= 6


def _two_views(uid: str, folder: Path) -> np.ndarray:
    (folder / f"{uid}.glb").write_bytes(build_glb(uid))
    request = {
        "path": str(folder / f"{uid}.glb"),
        "root": str(folder),
        "uid": uid,
        "sha256": "",
        "camera_layout": dataclasses.asdict(CameraLayoutConfig(views=6)),
        "resolution": 64,
        "backend": "raycast",
        "lit": True,
        "depth_scale": 1e-4,
        "up": "y",
        "limits": dataclasses.asdict(MeshLimits()),
    }
    reply, blobs = handle(request, [])
    views = decode_row(rows(request, reply, blobs)[0])
    return views.rgb[[1, 2]]


def test_damaged_and_missing_weights_are_one_sentence(
    clip_folder: Path, dinov2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with pytest.raises(UserError, match=r"weights of dinov2 are not at /nowhere: set weights to their path"):
        load_encoder("dinov2", "/nowhere")
    with pytest.raises(UserError, match=r"weights of clip-text \(openai/no-such-model\) are not here and cannot be"):
        load_encoder("clip-text", "openai/no-such-model", setting="cache_conditions.text_weights")
    with pytest.raises(UserError, match=r"weights of dinov2 in .* are incomplete: config\.json and model\.safetensors"):
        load_encoder("dinov2", str(tmp_path))
    with pytest.raises(UserError, match="there is no condition encoder 'clip': choose from clip-text, dinov2"):
        load_encoder("clip")
    with pytest.raises(UserError, match="lacks tensors of a CLIPTextModel"):
        load_encoder("clip-text", str(dinov2_folder))
    shutil.copytree(dinov2_folder, tmp_path / "cut")
    whole = (tmp_path / "cut" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="holds no Dinov2Model that can be loaded"):
        load_encoder("dinov2", str(tmp_path / "cut"))
    (tmp_path / "lite.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="holds no weights of EfficientNet-Lite0"):
        load_encoder("efficientnet-lite0", str(tmp_path / "lite.pth"))


def test_an_id_names_the_weights_and_needs_no_loading(dinov2_folder: Path, tmp_path: Path) -> None:
    assert encoder_id("dinov2", str(dinov2_folder)) == load_encoder("dinov2", str(dinov2_folder)).id
    shutil.copytree(dinov2_folder, tmp_path / "same")
    assert encoder_id("dinov2", str(tmp_path / "same")) == encoder_id("dinov2", str(dinov2_folder))
    data = bytearray((tmp_path / "same" / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "same" / "model.safetensors").write_bytes(data)
    assert encoder_id("dinov2", str(tmp_path / "same")) != encoder_id("dinov2", str(dinov2_folder))
    assert {name: kind.kind for name, kind in ENCODERS.items()} == {
        "clip-text": "text",
        "dinov2": "image",
        "minilm": "text",
        "efficientnet-lite0": "image",
    }
