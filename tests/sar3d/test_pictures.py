"""A person's picture, whatever it is, becomes a square on white or one sentence that says why not."""

import io
import struct
import sys
import types
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sar3d.errors import ObjectError, UserError
from sar3d.isolation import LimitedProcess
from sar3d.pictures import (
    PUBLISHED,
    SIDE,
    PictureLimits,
    Preparation,
    load_picture,
    picture_process,
    prepare_picture,
    read_picture,
    square,
)

RED = (200, 40, 30)


@pytest.fixture(scope="module")
def process() -> Iterator[LimitedProcess]:
    with picture_process() as made:
        yield made


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def disc(side: int = 64) -> Image.Image:
    """A red disc in the middle of nothing; what is transparent is black underneath."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = x**2 + y**2 < (side / 4) ** 2
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[inside] = (*RED, 255)
    return Image.fromarray(pixels)


def on_white(image: Image.Image) -> np.ndarray:
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def test_transparency_becomes_white_in_every_mode_that_has_it(process: LimitedProcess) -> None:
    expected = on_white(disc())
    grey = disc().convert("LA")
    palette = disc().quantize(16)
    cases = {
        "RGBA": encode(disc()),
        "WEBP": encode(disc(), "WEBP", lossless=True),
        "LA": encode(grey),
        "P": encode(palette),
        "GIF": encode(disc(), "GIF"),
    }
    for name, data in cases.items():
        made = read_picture(data, process=process).pixels
        truth = on_white(grey.convert("RGBA")) if name == "LA" else expected
        assert np.abs(made.astype(int) - truth).max() <= 2, name


def test_modes_without_transparency_keep_their_colors(process: LimitedProcess) -> None:
    flat = Image.new("RGB", (40, 40), RED)
    deep = Image.fromarray(np.full((40, 40), 0x8040, np.uint16))
    cases: dict[str, tuple[bytes, tuple[int, int, int]]] = {
        "RGB": (encode(flat), RED),
        "JPEG": (encode(flat, "JPEG", quality=95), RED),
        "CMYK": (encode(flat.convert("CMYK"), "TIFF"), RED),
        "1": (encode(Image.new("1", (40, 40), 1)), (255, 255, 255)),
        "16 bits": (encode(deep), (0x80, 0x80, 0x80)),
        "AVIF": (encode(flat, "AVIF", quality=95), RED),
    }
    for name, (data, color) in cases.items():
        made = read_picture(data, process=process).pixels
        assert np.abs(made.astype(int) - color).max() <= 4, name


def test_a_photograph_is_turned_as_its_exif_says(process: LimitedProcess) -> None:
    pixels = np.full((32, 64, 3), 255, np.uint8)
    pixels[:, :16] = RED  # at the left as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    made = read_picture(encode(Image.fromarray(pixels), "PNG", exif=exif.tobytes()), process=process)
    assert made.size == (64, 32)
    red = made.pixels[:, 32, 1] < 128
    assert red[:16].all()
    assert not red[16:].any()


def test_of_an_animation_the_first_frame_counts(process: LimitedProcess) -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read_picture(data, process=process).pixels == (255, 0, 0)).all()


def test_a_wide_picture_stands_in_the_middle_of_a_white_square_at_the_published_size(process: LimitedProcess) -> None:
    made = read_picture(encode(Image.new("RGB", (1000, 500), RED)), process=process)
    assert made.pixels.shape == (SIDE, SIDE, 3)
    assert made.mode == "RGB"
    column = made.pixels[:, SIDE // 2].astype(int)
    assert (column[: SIDE // 4 - 2] == 255).all()
    assert (column[-SIDE // 4 + 2 :] == 255).all()
    assert (column[SIDE // 4 + 2 : -SIDE // 4 - 2] == RED).all()


def test_the_reduction_is_pillows_bicubic_of_the_padded_square() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    padded = np.full((400, 400, 3), 255, np.uint8)
    padded[50:350] = noise
    expected = Image.fromarray(padded).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    assert (prepare_picture(noise).pixels == np.asarray(expected)).all()


def test_a_square_picture_that_is_small_reaches_the_encoder_as_it_is() -> None:
    """The encoder enlarges it as it enlarged the views that it was trained on: once."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert (prepare_picture(noise).pixels == noise).all()


def test_recentering_puts_the_object_into_the_middle_at_one_size() -> None:
    sheet = Image.new("RGB", (200, 200), "white")
    sheet.paste(RED, (150, 20, 190, 40))
    for image in (sheet, prepare_picture(sheet).pixels):
        made = prepare_picture(image, Preparation(recenter=True)).pixels
        rows, columns = np.nonzero(made[..., 1] < 128)
        side = made.shape[0]
        assert (columns.max() - columns.min() + 1) / side == pytest.approx(0.75, abs=0.03)
        for found in (rows, columns):
            assert abs((found.max() + found.min() + 1) / 2 - side / 2) <= 1
    blank = Image.new("RGB", (64, 64), "white")
    assert (square(blank, Preparation(recenter=True)) == 255).all()


def test_a_picture_in_memory_and_its_file_are_prepared_alike(process: LimitedProcess, tmp_path: Path) -> None:
    file = tmp_path / "disc.png"
    disc(300).save(file)
    loaded = load_picture(file, process=process)
    assert (loaded.pixels == prepare_picture(disc(300)).pixels).all()
    assert loaded.size == (300, 300)
    assert len(loaded.sha256) == 64


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is large and holds a few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def test_what_is_no_usable_picture_is_refused_in_one_sentence(process: LimitedProcess) -> None:
    whole = encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    cases = {
        "picture_too_small": [encode(Image.new("RGB", (1, 1))), encode(Image.new("RGB", (500, 1)))],
        "picture_too_large": [bomb(20_000, 20_000), bomb(200_000, 200_000), bomb(100_000, 1000)],
        "bad_picture": [
            whole[: len(whole) // 2],
            whole[:20],
            b"",
            b"glTF\x02\0\0\0",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n",
            encode(Image.fromarray(np.zeros((32, 32), np.float32)), "TIFF"),
        ],
        "empty_picture": [encode(Image.new("RGBA", (32, 32), (255, 0, 0, 0)))],
    }
    for kind, files in cases.items():
        for data in files:
            with pytest.raises(ObjectError) as raised:
                read_picture(data, process=process)
            assert raised.value.kind == kind, data[:40]
            assert "\n" not in raised.value.reason
            assert "Traceback" not in raised.value.stderr
    assert (read_picture(encode(disc()), process=process).pixels < 100).any(), "the process goes on after bad files"


def test_a_bomb_costs_no_memory(process: LimitedProcess) -> None:
    """It is refused by its header: 1.2 GB of pixels would take longer and fill the process."""
    with pytest.raises(ObjectError, match="20000 × 20000"), picture_process(PictureLimits(memory=400 << 20)) as own:
        read_picture(bomb(20_000, 20_000), process=own)


def test_files_that_are_missing_or_too_long_are_named(tmp_path: Path, process: LimitedProcess) -> None:
    with pytest.raises(ObjectError, match="there is no file") as raised:
        load_picture(tmp_path / "none.png", process=process)
    assert raised.value.kind == "missing_file"
    with pytest.raises(ObjectError, match="there is no file"):
        load_picture(tmp_path, process=process)
    (tmp_path / "long.png").write_bytes(bytes(2000))
    with pytest.raises(ObjectError, match="2,000 bytes") as raised:
        load_picture(tmp_path / "long.png", limits=PictureLimits(bytes=1000), process=process)
    assert raised.value.kind == "too_large"


def test_arrays_that_are_no_pictures_are_refused() -> None:
    for array in (np.zeros((32, 32, 3)), np.zeros((32, 32, 2), np.uint8), np.zeros(32, np.uint8)):
        with pytest.raises(ObjectError, match="uint8"):
            prepare_picture(array)


def test_removing_a_background_asks_for_the_package_where_it_is_not_installed(
    process: LimitedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(UserError, match=r"pip install 'sar3d\[background\]'"):
        read_picture(encode(Image.new("RGB", (64, 64), RED)), Preparation(remove_background=True), process=process)


def test_a_removed_background_is_white_and_transparency_is_left_alone(
    process: LimitedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a remover that keeps what is red, since the real one fetches its weights."""
    asked: list[Any] = []

    def remove(image: Image.Image) -> Image.Image:
        asked.append(image.size)
        pixels = np.asarray(image)
        alpha = np.where(pixels[..., 1] < 100, 255, 0).astype(np.uint8)
        return Image.fromarray(np.dstack([pixels, alpha]))

    package = types.ModuleType("rembg")
    package.remove = remove  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rembg", package)
    preparation = Preparation(remove_background=True)
    photo = Image.new("RGB", (2000, 1000), (60, 180, 70))
    photo.paste(RED, (800, 300, 1200, 700))
    made = read_picture(encode(photo), preparation, process=process).pixels
    assert asked == [(1024, 512)]
    assert (made[5] == 255).all()
    assert np.abs(made[SIDE // 2, SIDE // 2].astype(int) - RED).max() <= 2
    cut = read_picture(encode(disc()), preparation, process=process).pixels
    assert (cut == read_picture(encode(disc()), PUBLISHED, process=process).pixels).all()
    assert len(asked) == 1
