"""Caption files as they are published, joined to objects."""

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from pipelines.sources.captions import read_captions, with_captions
from pipelines.sources.rows import item_of
from sar3d.errors import UserError


def items(*uids: str, **captions: list[str]) -> Iterator[dict[str, Any]]:
    return (item_of(uid, f"{uid}.glb", "1", captions=captions.get(uid, [])) for uid in uids)


def joined(path: Path, *uids: str, **captions: list[str]) -> dict[str, list[str]]:
    return {i["uid"]: i["captions"] for i in with_captions(items(*uids, **captions), read_captions(str(path)))}


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_cap3d_has_no_header_and_quotes_commas(tmp_path: Path) -> None:
    path = write(tmp_path / "Cap3D.csv", 'b,"A small, red chair"\na,"A blue ""sofa"""\nzz,nobody asked\nb,A chair\n')
    assert joined(path, "a", "b", "c") == {"a": ['A blue "sofa"'], "b": ["A small, red chair", "A chair"], "c": []}


@pytest.mark.parametrize("header", ["uid,caption", "extra,UID, Caption", "obj_id,x,text"])
def test_a_header_is_recognized(tmp_path: Path, header: str) -> None:
    cells = {"uid": "a", "caption": "x", "obj_id": "a", "text": "x"}
    row = ",".join(cells.get(name.strip().lower(), "?") for name in header.split(","))
    if header.endswith("x,text"):
        row = "a,?,x"
    assert joined(write(tmp_path / "c.csv", f"{header}\n{row}\n"), "a") == {"a": ["x"]}


def test_3dtopia_is_a_list_of_objects(tmp_path: Path) -> None:
    entries = [
        {"obj_id": "b", "3dtopia": "A lamp."},
        {"obj_id": "a", "3dtopia": " A cat. "},
        {"obj_id": "b", "3dtopia": ""},
    ]
    path = write(tmp_path / "3DTopia-objaverse-caption-361k.json", json.dumps(entries))
    assert joined(path, "a", "b") == {"a": ["A cat."], "b": ["A lamp."]}


def test_a_dictionary_by_uid(tmp_path: Path) -> None:
    path = tmp_path / "captions.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"b": ["one", "two"], "a": "über 椅子"}).encode()))
    assert joined(path, "a", "b") == {"a": ["über 椅子"], "b": ["one", "two"]}


@pytest.mark.parametrize("texts", [pa.array(["one", "two", "three"]), pa.array([["one", "two"], ["three"], None])])
def test_parquet_with_texts_or_lists(tmp_path: Path, texts: pa.Array) -> None:
    uids = ["b", "b", "a"] if texts.type == pa.string() else ["b", "a", "c"]
    pa.parquet.write_table(pa.table({"other": [1, 2, 3], "caption": texts, "uid": uids}), tmp_path / "c.parquet")
    assert joined(tmp_path / "c.parquet", "a", "b", "c") == {"a": ["three"], "b": ["one", "two"], "c": []}


def test_own_captions_come_first_and_none_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", "a,mine\na,other\na,other\na,  \n")
    assert joined(path, "a", "b", a=["mine"], b=["kept"]) == {"a": ["mine", "other"], "b": ["kept"]}


def test_a_caption_may_hold_line_breaks_and_numbers_stay_text(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", '007,"two\nlines"\n1e3,NULL\n')
    assert joined(path, "007", "1e3") == {"007": ["two\nlines"], "1e3": ["NULL"]}


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("c.csv", b"a,one\nb,two,three\n", "cannot be read"),
        ("c.csv", b"only one column\n", "cannot be read"),
        ("c.csv", b"a,\xff\xfe broken\n", "cannot be read"),
        ("c.json", b"[1, 2", "cannot be read"),
        ("c.json", b'[{"key": "a"}]', "no columns uid and caption"),
        ("c.json", b'{"a": {"text": "x"}}', "not a string"),
        ("c.csv.gz", b"not gzip", "cannot be read"),
        ("c.parquet", b"PAR1", "cannot be read"),
        ("c.txt", b"a,one", "give a .csv, .json or .parquet"),
    ],
)
def test_what_is_no_caption_file_is_said_in_one_sentence(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        read_captions(str(tmp_path / name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.csv does not exist"):
        read_captions(str(tmp_path / "nowhere.csv"))


@pytest.mark.slow
def test_a_million_captions_are_read_in_seconds(tmp_path: Path) -> None:
    """A million captions are read in seconds and joined with modest memory."""
    with (tmp_path / "c.csv").open("w") as file:
        file.writelines(
            f'{i * 2654435761 % 2**32:032x},"A thing, number {i}, of some color"\n' for i in range(1_000_000)
        )
    start = time.monotonic()
    table = read_captions(str(tmp_path / "c.csv"))
    assert len(list(with_captions(items(*sorted(table["uid"].to_pylist()[::100])), table))) == 10_000
    assert time.monotonic() - start < 20
