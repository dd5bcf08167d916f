"""Folders of 3D files: what is listed, how manifests describe it, what happens to files that go or change."""

import csv
import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import threading
import time
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

sys.path.append(str(Path(__file__).parent))
from hub_server import glb

from pipelines.sources.captions import CaptionsConfig
from pipelines.sources.directory import DirectoryConfig, DirectorySource
from sar3d.errors import ObjectError, UserError

SHARED = Path(__file__).parents[2].parent / "shared"


def source(folder: Path | str, manifest: str | None = None) -> DirectorySource:
    return pickle.loads(pickle.dumps(DirectorySource(DirectoryConfig(str(folder), manifest))))


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(glb(200, seed=len(name)) if name.lower().endswith(".glb") else f"solid {name}\n".encode())


def fails(folder: Path, item: dict[str, Any]) -> str:
    with pytest.raises(ObjectError) as caught:
        source(folder).fetch(item)
    return caught.value.kind


def test_files_are_found_at_all_depths_whatever_their_names(tmp_path: Path) -> None:
    names = ["a.glb", "B.GLB", "deep/er/ünïcode näme 椅子 (1).glb", "x y/c.obj", "d.Ply", "e.stl", "f.gltf"]
    put(tmp_path, *names, "notes.txt", "f.bin", "texture.png", "deep/._a.glb", ".hidden/b.glb")
    items = list(source(tmp_path).items())
    assert sorted(i["path"] for i in items) == sorted(names)
    assert [i["uid"] for i in items] == sorted(hashlib.sha256(n.encode()).hexdigest() for n in names)


def test_a_row_describes_the_file_and_nothing_is_copied(tmp_path: Path) -> None:
    put(tmp_path, "sub/a.glb")
    (item,) = source(tmp_path).items()
    before = sorted(tmp_path.rglob("*"))
    row = source(tmp_path).fetch(item)
    data = (tmp_path / "sub/a.glb").read_bytes()
    assert (row["path"], row["bytes"], row["sha256"]) == ("sub/a.glb", len(data), hashlib.sha256(data).hexdigest())
    with source(tmp_path).open(row["path"]) as path:
        assert path == tmp_path / "sub/a.glb"
    assert sorted(tmp_path.rglob("*")) == before


ROWS = [
    {
        "file": "a.glb",
        "uid": "one",
        "name": "stühl",
        "category": "chair",
        "caption": "a chair; red, wooden",
        "tags": ["red", "wood"],
        "licence": "CC0-1.0",
        "author": "me",
        "source": "here",
        "triangles": 12,
    },
    {"file": "sub/b.glb", "uid": "two", "captions": ["first", "second"], "licence": None},
]


def as_json(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows).encode()


def as_dictionary(rows: list[dict[str, Any]]) -> bytes:
    return b"\xef\xbb\xbf" + json.dumps({"version": 1, "objects": rows}).encode()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows({k: ";".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)
    return text.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    pa.parquet.write_table(pa.Table.from_pylist([{n: r.get(n) for n in names} for r in rows]), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "encode"), [(".json", as_json), (".json", as_dictionary), (".csv", as_csv), (".parquet", as_parquet)]
)
def test_a_manifest_in_any_format_describes_the_files(tmp_path: Path, name: str, encode: Any) -> None:
    put(tmp_path, "a.glb", "sub/b.glb", "sub/unlisted.glb")
    (tmp_path / f"manifest{name}").write_bytes(encode(ROWS))
    items = {i["path"]: i for i in source(tmp_path).items()}
    assert set(items) == {"a.glb", "sub/b.glb", "sub/unlisted.glb"}
    row = source(tmp_path).fetch(items["a.glb"])
    assert row | {"sha256": "", "bytes": 0} == {
        "uid": "one",
        "path": "a.glb",
        "sha256": "",
        "bytes": 0,
        "name": "stühl",
        "category": "chair",
        "tags": ["red", "wood"],
        "captions": ["a chair; red, wooden"],
        "licence": "CC0-1.0",
        "author": "me",
        "source": "here",
    }
    assert (items["sub/b.glb"]["captions"], items["sub/b.glb"]["licence"]) == (["first", "second"], "")
    assert items["sub/unlisted.glb"]["uid"] == hashlib.sha256(b"sub/unlisted.glb").hexdigest()


def test_a_manifest_elsewhere_and_none_at_all(tmp_path: Path) -> None:
    put(tmp_path / "objects", "a.glb")
    (tmp_path / "list.csv").write_text("path,uid\n./a.glb,mine\n")
    (tmp_path / "objects" / "manifest.json").write_text("this is not for us")
    assert [i["uid"] for i in source(tmp_path / "objects", str(tmp_path / "list.csv")).items()] == ["mine"]
    assert len(list(source(tmp_path / "objects", "none").items())) == 1
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        list(source(tmp_path / "objects").items())


def test_what_a_manifest_promises_and_the_folder_lacks_fails_at_fetch(tmp_path: Path) -> None:
    put(tmp_path, "a.glb")
    (tmp_path / "doc.fbx").write_bytes(b"x")
    rows = [{"file": f, "uid": u} for u, f in [("1", "a.glb"), ("2", "gone.glb"), ("3", "../x.glb"), ("4", "doc.fbx")]]
    rows.append({"file": "/etc/passwd.glb", "uid": "5"})
    (tmp_path / "manifest.json").write_text(json.dumps(rows))
    items = list(source(tmp_path).items())
    source(tmp_path).fetch(items[0])
    kinds = [fails(tmp_path, item) for item in items[1:]]
    assert kinds == ["missing_file", "outside_folder", "unsupported_format", "outside_folder"]


def test_checksums_of_the_manifest_are_compared(tmp_path: Path) -> None:
    put(tmp_path, "a.glb", "bb.glb")
    right = hashlib.sha256((tmp_path / "a.glb").read_bytes()).hexdigest().upper()
    (tmp_path / "manifest.csv").write_text(f"file,uid,sha256\na.glb,1,{right}\nbb.glb,2,{right}\n")
    good, bad = source(tmp_path).items()
    assert source(tmp_path).fetch(good)["sha256"] == right.lower()
    assert fails(tmp_path, bad) == "checksum"


def test_composed_and_decomposed_accents_and_backslashes_name_the_same_file(tmp_path: Path) -> None:
    put(tmp_path, unicodedata.normalize("NFD", "sub/Stühl.glb"))
    (tmp_path / "manifest.json").write_text(json.dumps([{"file": "sub\\Stühl.glb", "uid": "1"}]))
    (item,) = source(tmp_path).items()
    assert source(tmp_path).fetch(item)["uid"] == "1"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("manifest.json", '[{"file": "a.glb", "uid": "x"}, {"file": "b.glb", "uid": "x"}]', "'x' to more than one"),
        ("manifest.json", '[{"file": "a.glb"}, {"file": "./a.glb"}]', "stands for both"),
        ("manifest.json", '[{"file": "a.glb"', "cannot be read"),
        ("manifest.json", '{"a.glb": "x"}', "cannot be read"),
        ("manifest.json", '[{"uid": "x"}]', "row 1 .* names no file"),
        ("manifest.json", '[{"file": "a.glb", "name": {"en": "x"}}]', "cannot be read"),
        ("manifest.json", '[{"file": "a.glb", "name": "\\ud800"}]', "cannot be read"),
        ("manifest.csv", "file,uid\na.glb,1,too many\n", "more cells"),
        ("manifest.parquet", "PAR1 not", "cannot be read"),
    ],
)
def test_a_bad_manifest_is_one_sentence(tmp_path: Path, name: str, text: str, words: str) -> None:
    put(tmp_path, "a.glb", "b.glb")
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        list(source(tmp_path).items())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("manifest.json", json.dumps({"name": "My App", "icons": [{"src": "icon.png"}], "display": "standalone"})),
        ("manifest.json", json.dumps([{"src": "icon.png"}])),
        ("manifest.json", json.dumps([{"path": "img/1.png"}, {"path": "img/2.png"}])),
        ("manifest.json", json.dumps({"objects": ["a", "b"]})),
        ("manifest.json", "// not JSON"),
        ("manifest.csv", "date,amount\n2024-01-01,7\n"),
        ("manifest.parquet", "something else"),
    ],
)
def test_a_manifest_of_something_else_names_the_setting_that_leaves_it_alone(
    tmp_path: Path, name: str, data: str
) -> None:
    put(tmp_path, "a.glb")
    (tmp_path / name).write_text(data)
    with pytest.raises(UserError, match=r"download\.directory\.manifest=none") as caught:
        list(source(tmp_path).items())
    assert name in str(caught.value)
    assert [item["path"] for item in source(tmp_path, "none").items()] == ["a.glb"]


@pytest.mark.parametrize(("separator", "encoding"), [(";", "cp1252"), ("\t", "utf-16"), (",", "utf-8-sig")])
def test_a_manifest_as_spreadsheets_write_it(tmp_path: Path, separator: str, encoding: str) -> None:
    put(tmp_path, "a.glb", "b.glb")
    rows = [["file", "uid", "name"], ["a.glb", "1", "Stühlchen"], ["b.glb", "2", "Größe"]]
    text = "".join(separator.join(row) + "\r\n" for row in rows)
    (tmp_path / "manifest.csv").write_bytes(text.encode(encoding))
    assert [(i["uid"], i["name"]) for i in source(tmp_path).items()] == [("1", "Stühlchen"), ("2", "Größe")]


def test_files_that_nobody_reads_are_counted_in_one_line(tmp_path: Path) -> None:
    put(tmp_path, "a.glb")
    others = ["1.fbx", "2.FBX", "sub/3.usdz", "sub/4.blend", "5.zip", "6.glb.zip", "7.tar.gz", "8.step", "texture.png"]
    others += ["readme.txt", "LICENSE", "a.mtl", "manifest.csv.bak", ".hidden.fbx"]
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    said: list[str] = []
    list(DirectorySource(DirectoryConfig(str(tmp_path)), log=said.append).items())
    (line,) = said
    assert all(f" {count}" in line for count in ("2 .fbx", "2 .zip", "1 .usdz", "1 .blend", "1 .gz", "1 .step")), line
    assert not any(kind in line for kind in (".png", ".txt", ".mtl", "3 .fbx"))
    assert "convert or unpack them" in line


def test_a_folder_of_nothing_but_other_formats_says_which(tmp_path: Path) -> None:
    for name in ("a.fbx", "b.fbx", "c.usdz"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"holds no \.glb.* but 2 \.fbx, 1 \.usdz; convert"):
        list(source(tmp_path).items())


def test_folders_without_anything_to_list(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds no \.glb"):
        list(source(tmp_path).items())
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        list(source(tmp_path / "nowhere").items())
    with pytest.raises(UserError, match="is no folder"):
        list(source(tmp_path / "notes.txt").items())
    with pytest.raises(UserError, match=r"download\.directory\.path"):
        list(DirectorySource(DirectoryConfig()).items())
    with pytest.raises(UserError, match="nosuch"):
        list(source("nosuch://bucket/x").items())
    put(tmp_path, "a.glb")
    (tmp_path / "manifest.csv").write_text("file\na.glb\n")
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match=r"manifest\.json and manifest\.csv"):
        list(source(tmp_path).items())


def test_files_that_go_or_change_after_the_listing(tmp_path: Path) -> None:
    put(tmp_path, "a.glb", "b.glb", "c.glb", "d.glb")
    os.symlink("nothing", tmp_path / "e.glb")
    os.mkfifo(tmp_path / "f.glb")
    items = {i["path"]: i for i in source(tmp_path).items()}
    (tmp_path / "a.glb").unlink()
    (tmp_path / "b.glb").write_bytes(glb(300))
    os.utime(tmp_path / "c.glb", ns=(1, 1))
    assert [fails(tmp_path, items[f"{n}.glb"]) for n in "abc"] == ["missing_file", "changed", "changed"]
    assert source(tmp_path).fetch(items["d.glb"])["bytes"] == 200
    assert [fails(tmp_path, items[f"{n}.glb"]) for n in "ef"] == ["missing_file", "unreadable"]
    again = {i["path"]: i for i in source(tmp_path).items()}
    assert again["d.glb"] == items["d.glb"]
    assert again["b.glb"] != items["b.glb"]


def test_impostors_are_told_from_meshes(tmp_path: Path) -> None:
    bodies = {"empty": b"", "page": b"<!DOCTYPE html><p>404", "lfs": b"version https://git-lfs.github.com/spec/v1\n"}
    for name, body in bodies.items():
        (tmp_path / f"{name}.glb").write_bytes(body)
    kinds = {i["path"]: fails(tmp_path, i) for i in source(tmp_path).items()}
    assert kinds == {"empty.glb": "empty_file", "page.glb": "html_page", "lfs.glb": "git_lfs_pointer"}


def test_a_name_that_is_not_utf8_is_reported_not_lost(tmp_path: Path) -> None:
    put(tmp_path, "a.glb")
    shutil.copy(tmp_path / "a.glb", os.fsencode(tmp_path) + b"/caf\xe9.glb")
    items = {i["path"]: i for i in source(tmp_path).items()}
    json.dumps(list(items), ensure_ascii=False).encode()
    assert fails(tmp_path, items["caf\\xe9.glb"]) == "unusable_name"


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "b.glb")
    put(tmp_path / "objects", "a.glb")
    os.symlink(tmp_path / "elsewhere", tmp_path / "objects" / "link")
    os.symlink(tmp_path / "objects", tmp_path / "objects" / "circle")
    items = list(source(tmp_path / "objects").items())
    assert sorted(i["path"] for i in items) == ["a.glb", "link/b.glb"]


@pytest.mark.parametrize("path", ["../a.glb", "/etc/passwd", "sub/../../a.glb", ""])
def test_no_path_leads_out_of_the_folder(tmp_path: Path, path: str) -> None:
    put(tmp_path, "a.glb", "objects/b.glb")
    with pytest.raises(ObjectError) as caught, source(tmp_path / "objects").open(path):
        pass
    assert caught.value.kind == "outside_folder"


def test_a_file_removed_after_fetch_is_named_when_opened(tmp_path: Path) -> None:
    put(tmp_path, "a.glb")
    with pytest.raises(ObjectError) as caught, source(tmp_path).open("b.glb"):
        pass
    assert caught.value.kind == "missing_file"


def test_a_remote_folder_brings_what_a_file_refers_to_and_cleans_up() -> None:
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("memory")
    gltf = {
        "buffers": [{"uri": "my%20data.bin"}, {"uri": "data:,x"}],
        "images": [{"uri": "tex/a.png"}, {"uri": "../s.png"}, {"uri": "../../secret.png"}],
    }
    files = {
        "m/a.gltf": json.dumps(gltf).encode(),
        "m/my data.bin": b"bin",
        "m/tex/a.png": b"png",
        "s.png": b"shared",
        "../secret.png": b"secret",
        "o/b.obj": b"mtllib mat\\B.mtl\nv 0 0 0\n",
        "o/mat/b.mtl": b"newmtl x\nmap_Kd -s 1 1 1 dark wood.jpg\n",
        "o/mat/dark wood.jpg": b"jpg",
    }
    for name, data in files.items():
        fs.pipe_file(os.path.normpath(f"/remote-folder/{name}"), data)
    remote = source("memory://remote-folder")
    rows = {r["path"]: r for r in map(remote.fetch, remote.items())}
    assert set(rows) == {"m/a.gltf", "o/b.obj"}
    with remote.open("m/a.gltf") as path:
        root = remote.root_of("m/a.gltf", path)
        assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()) == [
            "m/a.gltf",
            "m/my data.bin",
            "m/tex/a.png",
            "s.png",
        ]
    assert not root.exists()
    with remote.open("o/b.obj") as path:
        assert (path.parent / "mat/dark wood.jpg").read_bytes() == b"jpg"


def test_many_files_are_listed_in_seconds(tmp_path: Path) -> None:
    for part in range(20):
        (tmp_path / f"{part:02}").mkdir()
        for i in range(1000):
            (tmp_path / f"{part:02}" / f"{i}.glb").touch()
    start = time.monotonic()
    assert sum(1 for _ in source(tmp_path).items()) == 20_000
    assert time.monotonic() - start < 4, "100,000 files would take more than 20 s"


def test_threads_may_fetch_at_once(tmp_path: Path) -> None:
    put(tmp_path, *(f"{i:03}.glb" for i in range(50)))
    one, found = source(tmp_path), []
    threads = [threading.Thread(target=lambda i=i: found.append(one.fetch(i)["path"])) for i in one.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 50


def test_captions_join_the_listing(tmp_path: Path) -> None:
    put(tmp_path / "o", "a.glb", "b.glb")
    (tmp_path / "o" / "manifest.csv").write_text("file,uid,caption\na.glb,1,mine\nb.glb,2,\n")
    (tmp_path / "c.csv").write_text("1,theirs\n3,nobody's\n")
    one = DirectorySource(DirectoryConfig(str(tmp_path / "o")), CaptionsConfig(str(tmp_path / "c.csv")))
    assert [i["captions"] for i in one.items()] == [["mine", "theirs"], []]


def test_real_objects_with_their_manifest() -> None:
    if not (SHARED / "objects" / "manifest.json").exists():
        pytest.skip("the folder of real objects is not beside the repository")
    folder = source(SHARED / "objects")
    rows = [folder.fetch(item) for item in folder.items()]
    assert len(rows) == len({row["uid"] for row in rows}) == 467
    assert all(row["captions"] and row["licence"] == "CC0-1.0" for row in rows)


def test_a_file_that_another_refers_to_changes_both_version_and_content(tmp_path: Path) -> None:
    (tmp_path / "textures").mkdir()
    (tmp_path / "a.obj").write_text("mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd textures/a.png\n")
    (tmp_path / "textures" / "a.png").write_bytes(b"one")
    (tmp_path / "b.glb").write_bytes(glb(100))
    one = DirectorySource(DirectoryConfig(path=str(tmp_path)))
    before = {i["path"]: (i["version"], one.fetch(i)["sha256"]) for i in one.items()}
    (tmp_path / "textures" / "a.png").write_bytes(b"another")
    after = {i["path"]: (i["version"], one.fetch(i)["sha256"]) for i in one.items()}
    assert after["a.obj"][0] != before["a.obj"][0]
    assert after["a.obj"][1] != before["a.obj"][1]
    assert after["b.glb"] == before["b.glb"]
    (tmp_path / "a.mtl").unlink()
    item = next(i for i in one.items() if i["path"] == "a.obj")
    assert one.fetch(item)["sha256"] == hashlib.sha256((tmp_path / "a.obj").read_bytes()).hexdigest()
