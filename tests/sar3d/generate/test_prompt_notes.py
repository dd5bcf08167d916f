"""What is said of prompts that the models do not know: other languages, pictures with a background, no words at all."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sar3d.errors import ObjectError
from sar3d.generate.language import language_note
from sar3d.generate.prompts import Prompt, check_text
from sar3d.pictures import Preparation, prepare_picture, read_picture


@pytest.mark.parametrize("text", ["🚀🚀", "…", "- - -", "👩‍🚀", "♥ ♥", "(╯°□°)"])
def test_a_text_without_words_is_not_called_empty(text: str) -> None:
    with pytest.raises(ObjectError, match="holds no letter or digit") as caught:
        check_text(text)
    assert caught.value.kind == "wordless_text"


@pytest.mark.parametrize("text", ["", " \n\t", "\u3000"])
def test_an_empty_text_is(text: str) -> None:
    with pytest.raises(ObjectError, match="the text is empty"):
        check_text(text)


@pytest.mark.parametrize(
    "text",
    [
        *("красное яблоко", "赤いりんご", "红苹果", "빨간 사과", "تفاحة حمراء", "ein roter Apfel", "une pomme rouge"),
        *("una manzana roja", "el coche rojo", "uma maçã vermelha", "en röd stuga med tak", "il gatto nero"),
    ],
)
def test_another_language_is_noted_with_the_cure(text: str) -> None:
    note = Prompt(text).note()
    assert note is not None
    assert "English" in note
    assert Prompt(text).describe()["note"] == note


@pytest.mark.parametrize(
    "text", ["a red apple", "a café chair, naïve style", "Los Angeles taxi", "mug with π on it", "7", "DER plane 🚀"]
)
def test_english_is_not_noted(text: str) -> None:
    assert language_note(text) is None
    assert "note" not in Prompt(text).describe()


def object_on(background: "tuple[int, ...]", mode: str = "RGB", size: tuple[int, int] = (96, 64)) -> Image.Image:
    image = Image.new(mode, size, background)
    ImageDraw.Draw(image).ellipse((20, 10, 70, 50), fill=(180, 30, 20) + (255,) * (mode == "RGBA"))
    return image


@pytest.mark.parametrize(
    ("image", "noted"),
    [
        (object_on((0, 0, 0)), True),
        (object_on((90, 140, 60)), True),
        (object_on((215, 215, 215)), True),
        (object_on((90, 140, 60), size=(64, 200)), True),
        (object_on((255, 255, 255)), False),
        (object_on((248, 247, 246)), False),
        (object_on((0, 0, 0, 0), "RGBA"), False),
        (object_on((0, 0, 0, 255), "RGBA"), True),
        (object_on((255, 255, 255)).crop((20, 10, 71, 51)), False),
    ],
)
def test_a_picture_with_a_background_is_noted_with_the_cure(image: Image.Image, noted: bool, tmp_path: Path) -> None:
    note = Prompt(prepare_picture(image)).note()
    assert (note is not None) == noted
    assert note is None or "--remove-background" in note


def test_a_picture_file_is_noted_too_and_not_once_its_background_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_on((0, 60, 0)).save(tmp_path / "green.png")
    data = (tmp_path / "green.png").read_bytes()
    assert read_picture(data).background
    cut = np.asarray(object_on((0, 0, 0, 0), "RGBA"))
    monkeypatch.setattr("sar3d.pictures.background_remover", lambda: lambda image: Image.fromarray(cut))
    assert not read_picture(data, Preparation(remove_background=True)).background
