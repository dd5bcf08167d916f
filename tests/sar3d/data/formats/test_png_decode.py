"""Reading PNGs: ours directly, anybody's through Pillow, broken ones not at all."""

import io

import numpy as np
import pytest
from PIL import Image

from sar3d.data.formats.png import write_png
from sar3d.data.formats.png_decode import read_png

RNG = np.random.default_rng(0)
PICTURES = {
    "grey": RNG.integers(0, 255, (30, 17), np.uint8),
    "rgb": RNG.integers(0, 255, (32, 48, 3), np.uint8),
    "deep": RNG.integers(0, 65535, (16, 21), np.uint16),
}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("row_filter", ["none", "up"])
def test_what_is_written_is_read(kind: str, row_filter: str) -> None:
    pixels, texts = read_png(write_png(PICTURES[kind], row_filter, {"depth_scale": "0.0001"}))  # type: ignore[arg-type]
    assert np.array_equal(pixels, PICTURES[kind])
    assert pixels.dtype == PICTURES[kind].dtype
    assert texts == {"depth_scale": "0.0001"}


@pytest.mark.parametrize("kind", PICTURES)
def test_other_writers_pictures_are_read(kind: str) -> None:
    smooth = np.cumsum(np.cumsum(PICTURES[kind] // 64, axis=0), axis=1).astype(PICTURES[kind].dtype)
    out = io.BytesIO()
    Image.fromarray(smooth).save(out, "PNG")
    pixels, _ = read_png(out.getvalue())
    assert np.array_equal(pixels, smooth)


def test_broken_pictures_are_refused_and_nothing_else_is_raised() -> None:
    whole = write_png(PICTURES["rgb"], "up")
    refused = 0
    for length in range(0, len(whole) - 16, 7):
        with pytest.raises(ValueError, match="it"):
            read_png(whole[:length])
    for place in range(8, len(whole), 11):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        try:
            read_png(bytes(broken))
        except ValueError:
            refused += 1
    assert refused > 0.9 * len(range(8, len(whole), 11))


def test_a_header_that_claims_too_much_allocates_nothing() -> None:
    broken = bytearray(write_png(PICTURES["grey"], "none"))
    broken[16:24] = b"\x7f\xff\xff\xff\x7f\xff\xff\xff"
    with pytest.raises(ValueError, match="its pixels are fewer"):
        read_png(bytes(broken))


def test_pictures_of_other_kinds_are_refused() -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 4), np.uint8), "RGBA").save(out, "PNG")
    with pytest.raises(ValueError, match="RGBA, neither gray nor RGB"):
        read_png(out.getvalue())
