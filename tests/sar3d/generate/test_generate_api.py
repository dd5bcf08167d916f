"""Prompts become objects: the same seed the same one, whatever stands beside it, by the models that belong together."""

import json
import shutil
from pathlib import Path
from typing import Any

import generators
import numpy as np
import pytest
import rendered
import torch
from PIL import Image
from safetensors.torch import load_file

from sar3d import hub
from sar3d.ar.sampling import DECODINGS, Decoding, generate
from sar3d.conditions import load_encoder
from sar3d.conditions.condition import Condition
from sar3d.errors import ObjectError, UserError
from sar3d.export.config import ExportSettings
from sar3d.generate import Sar3D
from sar3d.generate.captioner import Captioner
from sar3d.generate.models import pick_device
from sar3d.generate.prompts import Prompt

APPLE, SHIP = "a red apple", "a wooden ship"
EXPORT = ExportSettings(**generators.EXPORT)
LOOSE = Decoding(top_k=20, top_p=1.0)
"""Draws, rather than takes the likeliest."""


@pytest.fixture(scope="module")
def system() -> Sar3D:
    return Sar3D.from_pretrained(generators.bundle(), device="cpu")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cup of coffee, more or less, on nothing."""
    pixels = np.zeros((120, 100, 4), np.uint8)
    pixels[30:90, 30:70] = (120, 70, 30, 255)
    file = tmp_path_factory.mktemp("pictures") / "cup.png"
    Image.fromarray(pixels).save(file)
    return file


def test_a_seed_gives_one_object_and_n_samples_have_the_seeds_that_follow(system: Sar3D) -> None:
    three = system.generate(text=APPLE, n=3, seed=5, decoding=LOOSE)
    assert [s.settings["seed"] for s in three] == [5, 6, 7]
    assert len({tuple(s.tokens.tolist()) for s in three}) == 3
    again = system.generate(text=f"  {APPLE}\n", seed=6, decoding=LOOSE)[0]
    assert torch.equal(again.tokens, three[1].tokens)
    other = system.generate(text=SHIP, seed=6, decoding=LOOSE)[0]
    assert not torch.equal(other.tokens, again.tokens)


def test_a_sample_does_not_depend_on_the_batch_that_it_is_in(system: Sar3D) -> None:
    prompts = [Prompt(text, seed) for text in (APPLE, SHIP, "a chair") for seed in (0, 1)][:5]
    for batch in (2, 5):
        together = list(system.sample(prompts, "released", batch=batch, precision="fp32"))
        for prompt, sample in zip(prompts, together, strict=True):
            (alone,) = system.sample([prompt], "released", batch=1, precision="fp32")
            assert torch.equal(sample.tokens, alone.tokens), (batch, prompt)


def test_what_is_decoded_are_the_encoders_features_of_the_prompt(system: Sar3D) -> None:
    encoder = load_encoder("minilm")
    model = hub.from_pretrained(generators.bundle() / "ar_text", kind="ar")
    given, nothing = encoder.encode([APPLE]), encoder.empty()
    condition, empty = Condition(given.tokens, given.pooled), Condition(nothing.tokens, nothing.pooled)
    made = generate(model, system.vqvae.quantizer, condition, empty, [3], LOOSE, precision="fp32")
    (sample,) = system.generate(text=APPLE, seed=3, decoding=LOOSE, precision="fp32")
    assert torch.equal(sample.tokens, made.tokens[0])
    with torch.no_grad():
        planes = system.vqvae.decode_tokens(sample.tokens[None])
    assert torch.allclose(sample.planes, planes, atol=1e-4)
    points = torch.rand(1, 50, 3) * 0.8 - 0.4
    expected = system.vqvae.field(planes).query(points)
    assert torch.allclose(sample.field.query(points).rgb, expected.rgb, atol=1e-4)


def test_guidance_and_decodings_reach_the_model(system: Sar3D) -> None:
    def tokens(decoding: Any) -> list[int]:
        made: list[int] = system.generate(text=APPLE, seed=1, decoding=decoding)[0].tokens.tolist()
        return made

    assert tokens("released") == tokens(DECODINGS["released"])
    assert tokens("released") != tokens(LOOSE)
    assert tokens(Decoding(guidance=0.0)) != tokens(Decoding(guidance=8.0))
    assert tokens("greedy") == system.generate(text=APPLE, seed=99, decoding="greedy")[0].tokens.tolist()
    with pytest.raises(UserError, match="no decoding named 'best'"):
        tokens("best")


def test_a_picture_is_the_same_prompt_as_a_file_an_image_and_an_array(system: Sar3D, picture: Path) -> None:
    opened = Image.open(picture)
    made = [system.generate(image=i, decoding=LOOSE)[0] for i in (picture, str(picture), opened, np.asarray(opened))]
    assert len({tuple(s.tokens.tolist()) for s in made}) == 1
    assert made[0].settings["prompt"] | {"sha256": ""} == {
        "kind": "image",
        "file": "cup.png",
        "sha256": "",
        "size": [100, 120],
        "mode": "RGBA",
    }
    white = Image.new("RGB", (64, 64), "white")
    assert not torch.equal(system.generate(image=white, decoding=LOOSE)[0].tokens, made[0].tokens)


def test_a_saved_sample_holds_its_files_tokens_and_every_setting(system: Sar3D, tmp_path: Path) -> None:
    (sample,) = system.generate(text=APPLE, seed=2, decoding="evaluation")
    written = sample.save(tmp_path / "apple", EXPORT)
    folder = tmp_path / "apple"
    assert sorted(p.name for p in folder.iterdir()) == sorted(written["files"])
    assert {"object.glb", "object.ply", "turntable.mp4", "sheet.png"} < set(written["files"])
    assert torch.equal(load_file(folder / "tokens.safetensors")["tokens"].long(), sample.tokens)
    settings = json.loads((folder / "settings.json").read_text())
    assert settings == json.loads(json.dumps(written))
    assert settings["prompt"] == {"kind": "text", "text": APPLE}
    assert settings["decoding"] == {"guidance": 4.0, "top_k": 2, "top_p": 0.1, "temperature": 1.0, "smooth": False}
    folders = {"vqvae": "vqvae", "generator": "ar_text"}
    assert settings["models"] == {name: hub.digest(generators.bundle() / f) for name, f in folders.items()}
    assert settings["encoder"] == load_encoder("minilm").id
    assert {"seed", "precision", "device", "versions", "export"} < settings.keys()
    assert {"encode", "tokens", "planes", "turntable", "mesh", "export"} <= settings["seconds"].keys()

    again = sample.save(folder, ExportSettings(formats=()))
    assert sorted(p.name for p in folder.iterdir()) == sorted(again["files"]) == ["settings.json", "tokens.safetensors"]


def test_a_field_without_a_surface_leaves_tokens_and_pictures(system: Sar3D, tmp_path: Path) -> None:
    (sample,) = system.generate(text=APPLE)
    export = ExportSettings(formats=("glb", "png"), **{**generators.EXPORT, "level": 1e4})
    with pytest.raises(ObjectError) as raised:
        sample.save(tmp_path, export)
    assert raised.value.kind == "empty_field"
    assert {"tokens.safetensors", "settings.json", "sheet.png"} == {p.name for p in tmp_path.iterdir()}


def test_a_place_that_cannot_be_written_is_one_sentence(system: Sar3D, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="choose another folder"):
        system.generate(text=APPLE)[0].save(tmp_path / "taken", EXPORT)


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(generators.bundle(), tmp_path / "copy"))


def test_a_generator_of_another_vqvae_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the VQVAE that it was trained with") as raised:
        Sar3D.from_pretrained(generators.bundle(), vqvae=rendered.model(7), device="cpu")
    assert hub.digest(rendered.model(7))[:16] in str(raised.value)
    config = generators.generator_config("text", 384, scales=(1, 2, 4, 16))
    generators.save_generator(tmp_path / "ar_text", config)
    with pytest.raises(UserError, match=r"scales \[1, 2, 4, 16\]"):
        Sar3D.from_pretrained(tmp_path / "ar_text", vqvae=rendered.model(), device="cpu")


def test_a_generator_is_not_used_with_another_encoder_than_it_was_trained_with(tmp_path: Path) -> None:
    extra = generators.trained_with("text") | {"encoder_id": "minilm:0123456789abcdef"}
    folder = generators.save_generator(tmp_path / "ar", generators.generator_config("text", 384), extra=extra)
    system = Sar3D.from_pretrained(folder, vqvae=rendered.model(), device="cpu")
    with pytest.raises(UserError, match=r"trained with the encoder minilm:0123456789abcdef, but .* text_weights"):
        system.generate(text=APPLE)
    narrow = generators.save_generator(
        tmp_path / "narrow", generators.generator_config("text", 64), extra=generators.trained_with("text")
    )
    with pytest.raises(UserError, match="takes conditions of 64 and 64 numbers, but minilm gives 384 and 384"):
        Sar3D.from_pretrained(narrow, vqvae=rendered.model(), device="cpu").generate(text=APPLE)


def test_a_converted_generator_takes_the_published_encoder(tmp_path: Path) -> None:
    """Its folder says neither encoder nor VQVAE."""
    from transformers import Dinov2Config, Dinov2Model

    size = {"hidden_size": 32, "mlp_ratio": 2, "num_hidden_layers": 1, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(image_size=518, patch_size=14, **size)).save_pretrained(tmp_path / "dinov2")
    generators.save_generator(tmp_path / "ar", generators.generator_config("image", 32))
    folders = {"vqvae": rendered.model(), "image_weights": str(tmp_path / "dinov2")}
    system = Sar3D.from_pretrained(tmp_path / "ar", device="cpu", **folders)
    (sample,) = system.generate(image=np.full((80, 80, 3), 90, np.uint8))
    assert sample.settings["encoder"].startswith("dinov2:")
    assert sample.tokens.shape == (2040,)
    without = Sar3D.from_pretrained(tmp_path / "ar", vqvae=rendered.model(), image_weights=str(tmp_path / "no"))
    with pytest.raises(UserError, match="image_weights"):
        without.generate(image=np.full((80, 80, 3), 90, np.uint8))


def test_folders_that_lack_a_model_are_named(tmp_path: Path, system: Sar3D) -> None:
    folder = copied(tmp_path)
    shutil.rmtree(folder / "ar_image")
    half = Sar3D.from_pretrained(folder, device="cpu")
    assert (half.kinds, system.kinds) == (("text",), ("text", "image"))
    with pytest.raises(UserError, match="there is no generator for pictures"):
        half.generate(image=np.zeros((32, 32, 3), np.uint8))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"path": folder / "ar_text"}, "there is no VQVAE in"),
        ({"path": folder / "vqvae"}, "names no generator"),
        ({"path": tmp_path / "none"}, "there is no folder"),
        ({"path": tmp_path}, "names no generator"),
        ({"path": folder / "ar_text", "vqvae": folder / "ar_text"}, "not vqvae"),
        ({"path": folder, "image": folder / "ar_text"}, "takes text conditions, not image"),
        ({"path": folder, "text": folder / "vqvae"}, "holds a model of kind vqvae"),
        ({"path": folder, "device": "cuda:9"}, "there is no device 'cuda:9'"),
    ]
    for given, sentence in cases:
        with pytest.raises(UserError, match=sentence) as raised:
            Sar3D.from_pretrained(**{"device": "cpu", **given})
        assert "\n" not in str(raised.value)


def test_requests_that_cannot_be_met_are_one_sentence(system: Sar3D, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nand so on")
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "either a text or a picture"),
        ({"text": APPLE, "image": broken}, "either a text or a picture"),
        ({"text": " \n"}, "the text is empty"),
        ({"text": "word " * 10_000}, "49,999 characters, more than 2,000"),
        ({"text": APPLE, "n": 0}, "n is a number from 1 on"),
        ({"text": APPLE, "seed": -1}, "the seed -1"),
        ({"text": APPLE, "seed": 2**63 - 1, "n": 2}, "the seed 9223372036854775808"),
        ({"image": tmp_path / "none.png"}, "there is no file"),
        ({"image": broken}, "broken.png: it is"),
        ({"image": Image.new("RGB", (1, 1))}, "1 × 1 pixels"),
    ]
    for given, sentence in cases:
        with pytest.raises(UserError, match=sentence) as raised:
            system.generate(**given)
        assert "\n" not in str(raised.value)


def test_auto_picks_a_device_that_is_there() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_what_is_made_is_described_from_its_own_tokens(system: Sar3D, tmp_path: Path) -> None:
    folder = generators.captioner(tmp_path / "llm", system.vqvae_digest)
    described = Sar3D.from_pretrained(generators.bundle(), captioner=folder, device="cpu")
    samples = described.generate(text=APPLE, n=2, decoding=LOOSE)
    words = described.caption(samples)
    assert words == Captioner.from_pretrained(folder).caption(torch.stack([sample.tokens for sample in samples]))
    assert described.caption(samples[1]) == words[1:]


def test_a_captioner_of_other_codes_and_none_at_all_are_one_sentence(system: Sar3D, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no captioner in"):
        system.caption(torch.zeros(1, 2040, dtype=torch.long))
    folder = generators.captioner(tmp_path / "llm", "0" * 64)
    described = Sar3D.from_pretrained(generators.bundle(), captioner=folder, device="cpu")
    with pytest.raises(UserError, match="was trained on the tokens of the VQVAE 0000000000000000"):
        described.caption(torch.zeros(1, 2040, dtype=torch.long))
