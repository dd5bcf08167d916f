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

from pipelines.sources.captions import Captions, CaptionsConfig, read_captions, with_captions
from pipelines.sources.directory import DirectoryConfig, DirectorySource
from pipelines.sources.rows import item_of
from sar3d.errors import UserError


def items(*uids: str, **captions: list[str]) -> Iterator[dict[str, Any]]:
    return (item_of(uid, f"{uid}.glb", "1", captions=captions.get(uid, [])) for uid in uids)


def joined(path: Path, *uids: str, log: list[str] | None = None, **captions: list[str]) -> dict[str, list[str]]:
    said = [] if log is None else log
    table = Captions(read_captions(str(path), said.append))
    listed = with_captions(items(*uids, **captions), table, str(path), said.append)
    return {i["uid"]: i["captions"] for i in listed}


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
        ("c.csv", "a,красный стул\n".encode("cp1251"), "save it as UTF-8"),
        ("c.json", '{"a": "赤い椅子がある"}'.encode("shift-jis"), "save it as UTF-8"),
        ("c.json", b"[1, 2", "cannot be read"),
        ("c.json", b'[{"key": "a"}]', "no columns uid and caption"),
        ("c.json", b'{"a": {"text": "x"}}', "not a string"),
        ("c.csv.gz", b"not gzip", "cannot be read"),
        ("c.parquet", b"PAR1", "cannot be read"),
        ("c.docx", b"a,one", "give a file of one of the kinds"),
    ],
)
def test_what_is_no_caption_file_is_said_in_one_sentence(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        read_captions(str(tmp_path / name), print)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.csv does not exist"):
        read_captions(str(tmp_path / "nowhere.csv"), print)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("first", ["uid{}caption\r\n", "", "sep={}\r\n", "sep={0}\r\nUID{0}Caption\r\n"])
def test_captions_in_the_encodings_and_with_the_separators_of_spreadsheets(
    tmp_path: Path, encoding: str, separator: str, first: str
) -> None:
    row = 'a1{}"Ein grüner Stuhl, groß; alt"\r\nb2{}Une lampe dorée\r\n'.replace("{}", separator)
    (tmp_path / "c.csv").write_bytes((first.replace("{0}", "{}").replace("{}", separator) + row).encode(encoding))
    said: list[str] = []
    assert joined(tmp_path / "c.csv", "a1", "b2", log=said) == {
        "a1": ["Ein grüner Stuhl, groß; alt"],
        "b2": ["Une lampe dorée"],
    }
    assert any("Windows-1252" in line for line in said) == (encoding == "cp1252")


def test_a_caption_with_commas_and_a_semicolon_between_its_cells(tmp_path: Path) -> None:
    """The separator is what ends the first cell, not what is most frequent."""
    path = write(tmp_path / "c.csv", "a;red, round, small\nb;blue, square\n")
    assert joined(path, "a", "b") == {"a": ["red, round, small"], "b": ["blue, square"]}


def test_json_lines_and_tables_of_other_data_sets(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"uid": u, "caption": f"caption of {u}"}) + "\n" for u in ("a", "b"))
    assert joined(write(tmp_path / "c.jsonl", lines), "b") == {"b": ["caption of b"]}
    text2shape = "id,modelId,description,category\n1,m7,a round table,Table\n"
    assert joined(write(tmp_path / "t.csv", text2shape), "m7") == {"m7": ["a round table"]}


def folder(path: Path, captions: Path, *files: str) -> tuple[dict[str, list[str]], list[str]]:
    """Captions of the objects in a folder by their path, and what was said."""
    for name in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"glTF")
    said: list[str] = []
    source = DirectorySource(DirectoryConfig(str(path)), CaptionsConfig(str(captions)), said.append)
    listed = list(source.items())
    assert not any(key.startswith("_") for item in listed for key in item)
    return {item["path"]: item["captions"] for item in listed}, said


@pytest.mark.parametrize(
    "name",
    [
        "{u}",
        "{u}.glb",
        "glbs/000-023/{u}.glb",
        "https://huggingface.co/datasets/allenai/objaverse/resolve/main/glbs/000-023/{u}.glb",
        "D:\\objaverse\\glbs\\000-023\\{u}.glb",
        "000-023/{u}",
    ],
)
def test_captions_by_whatever_names_a_file_of_a_folder(tmp_path: Path, name: str) -> None:
    uids = ["f53d75bd123b40bca14d12d54286f432", "8476c4170df24cf5bbe6967222d1a42d"]
    text = "".join(f"{name.format(u=u)},object {u[:3]}\n" for u in [*uids, "0" * 32])
    files = [f"000-023/{u}.glb" for u in [*uids, "00004b2a7d1c4e0ea8d1f4ccd8a0b1c2"]]
    found, said = folder(tmp_path / "o", write(tmp_path / "c.csv", text), *files)
    assert found == {files[0]: ["object f53"], files[1]: ["object 847"], files[2]: []}
    (line,) = said
    assert "2 of its 3 names are those of objects, 1 are not (such as" in line
    assert f"1 of 3 objects have no caption (such as {files[2]})" in line


def test_captions_by_the_folder_of_an_object(tmp_path: Path) -> None:
    """As in ShapeNet: what belongs to several objects names none of them, one object in two formats is one."""
    path = write(tmp_path / "c.csv", "1a04,a plane\nmodel,which?\n2b05,two parts?\nsame,one thing\n")
    files = ["02691156/1a04/model.obj", "02691156/2b05/model.obj", "02691156/2b05/part.obj", "same.glb", "same.obj"]
    found, (line,) = folder(tmp_path / "o", path, *files)
    assert found == dict(zip(files, [["a plane"], [], [], ["one thing"], ["one thing"]], strict=True))
    assert "2 are not (such as '2b05')" in line


def test_captions_that_meet_no_object_name_the_cure(tmp_path: Path) -> None:
    found, (line,) = folder(tmp_path / "o", write(tmp_path / "c.csv", "x,one\nx,two\ny,three\n"), "a.glb")
    assert found == {"a.glb": []}
    assert "0 of its 2 names are those of objects, 2 are not (such as 'x')" in line
    assert line.endswith("give the uids in a manifest")


@pytest.mark.slow
def test_a_million_captions_are_read_in_seconds(tmp_path: Path) -> None:
    """A million captions are read in seconds and joined with modest memory."""
    with (tmp_path / "c.csv").open("w") as file:
        file.writelines(
            f'{i * 2654435761 % 2**32:032x},"A thing, number {i}, of some color"\n' for i in range(1_000_000)
        )
    start = time.monotonic()
    table = read_captions(str(tmp_path / "c.csv"), print)
    listed = items(*sorted(table["uid"].to_pylist()[::100]))
    assert sum(len(i["captions"]) for i in with_captions(listed, Captions(table), "c.csv", print)) == 10_000
    assert time.monotonic() - start < 20
