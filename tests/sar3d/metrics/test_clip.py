"""CLIP's vectors of pictures and texts, from a tiny model of the real classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sar3d.errors import UserError
from sar3d.metrics.features.clip import Clip, clip_score, r_precision


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with random weights, laid out as the published repository."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

    made = tmp_path_factory.mktemp("clip") / "clip-tiny"
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(vocab_size=len(tokens), **size, **ends)
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
        CLIPModel(config).save_pretrained(made)
    (made / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (made / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(made).save_pretrained(made)
    return made


def test_vectors_are_those_of_both_towers(folder: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPModel

    clip = Clip(str(folder))
    assert clip.name == "clip_tiny"
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3)).astype(np.uint8)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = CLIPImageProcessorPil(**size)(images=list(images), return_tensors="pt")["pixel_values"]
    texts = ["a red car", "a"]
    ids = clip.tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels)
    found, told = clip.images(images), clip.texts(texts)
    torch.testing.assert_close(found, out.image_embeds, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(told, out.text_embeds, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clip_score(found, told), 100 * (out.image_embeds * out.text_embeds).sum(-1).clamp_min(0))


def test_the_own_text_must_be_the_nearest() -> None:
    axes = torch.eye(3)
    assert r_precision(axes, axes).tolist() == [1, 1, 1]
    assert r_precision(axes, axes[[1, 0, 2]]).tolist() == [0, 0, 1]
    assert clip_score(axes, -axes).tolist() == [0, 0, 0]


def test_no_clip_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no CLIPModel that can be loaded"):
        Clip(str(tmp_path))
