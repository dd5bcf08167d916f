"""Reasons are for people."""

import io

import pytest

from sar3d.errors import ObjectError, readable


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"cannot identify image file {io.BytesIO()!r}", "cannot identify image file BytesIO"),
        ("no reader for <trimesh.exchange.Loader object at 0x7f00ab12cd34>", "no reader for Loader"),
        (f"it calls {print!r} and {readable!r}", "it calls <built-in function print> and function"),
        ("the material 'K\ufffd\ufffd\ufffd\ufffdr\x00'", "the material 'K(bytes that are no text)r?'"),
        ("'a\ud800b' and\ttabs\nand lines", "'a?b' and tabs and lines"),
        ("a < b at 0x10, Stühl 椅子 🚀 <tag>", "a < b at 0x10, Stühl 椅子 🚀 <tag>"),
    ],
    ids=["buffer", "loader", "function", "mojibake", "control characters", "text"],
)
def test_reasons_hold_no_addresses_and_nothing_that_cannot_be_shown(said: str, shown: str) -> None:
    assert ObjectError("bad", said).reason == shown
