"""Objaverse from a hub of our own: what is selected, what is transferred, and what is not transferred twice."""

import gzip
import json
import pickle
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))
from hub_server import Fault, Hub, fill_objaverse, glb, serve

from pipelines.sources.captions import CaptionsConfig
from pipelines.sources.objaverse_source import ObjaverseConfig, ObjaverseSource
from pipelines.sources.transfer import TransferConfig
from pipelines.sources.uids import read_uids
from sar3d.errors import ObjectError, UserError

UIDS = [f"{i:02x}{i * 7919:030x}" for i in range(60)]
PATIENCE = TransferConfig(attempts=4, backoff_s=0.01, stall_timeout_s=0.5, retry_after_max_s=0.2)
LICENCES = ("by", "by-nc", "cc0")


def annotation(i: int) -> dict[str, Any]:
    return {
        "name": f"object {i} ☃",
        "tags": [{"name": "blue", "slug": "blue"}, {"name": "old"}],
        "categories": [{"name": "Furniture & Home"}, {"name": "Art"}] if i % 2 else [],
        "license": LICENCES[i % 3],
        "user": {"username": f"maker{i}", "account": "pro"},
        "viewerUrl": f"https://sketchfab.com/3d-models/{i}",
        "thumbnails": {"images": [{"url": "x"}] * 5},
    }


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as hub:
        fill_objaverse(
            hub,
            {uid: glb(2000 + i, seed=i) for i, uid in enumerate(UIDS)},
            {uid: annotation(i) for i, uid in enumerate(UIDS)},
            {"chair": UIDS[0:10], "teapot": UIDS[10:15], "Christmas_tree": UIDS[15:16]},
        )
        yield hub


def source(hub: Hub, folder: Path, files: str | None = None, **selection: Any) -> ObjaverseSource:
    config = ObjaverseConfig(mirror=hub.url, cache=str(folder / "cache"), transfer=PATIENCE, **selection)
    return pickle.loads(pickle.dumps(ObjaverseSource(config, files or str(folder / "files"))))


def uids(one: ObjaverseSource) -> list[str]:
    found = [item["uid"] for item in one.items()]
    assert found == sorted(found)
    return found


def fetch_all(one: ObjaverseSource) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one.fetch, one.items()))


def test_an_object_arrives_with_its_annotations(hub: Hub, tmp_path: Path) -> None:
    one = source(hub, tmp_path, categories=("teapot",))
    rows = fetch_all(one)
    assert [row["uid"] for row in rows] == UIDS[10:15]
    assert {k: v for k, v in rows[1].items() if k not in ("sha256", "bytes")} == {
        "uid": UIDS[11],
        "path": f"objaverse/{UIDS[11][:2]}/{UIDS[11]}.glb",
        "name": "object 11 ☃",
        "category": "teapot",
        "tags": ["blue", "old"],
        "captions": [],
        "licence": "cc0",
        "author": "maker11",
        "source": "https://sketchfab.com/3d-models/11",
    }
    with one.open(rows[1]["path"]) as path:
        assert path.read_bytes() == hub.files[f"glbs/000-002/{UIDS[11]}.glb"]
    receipt = json.loads((tmp_path / "files" / rows[1]["path"]).with_suffix(".json").read_text())
    assert (receipt["sha256"], receipt["bytes"]) == (rows[1]["sha256"], 2011)
    assert receipt["url"] == f"{hub.url}/glbs/000-002/{UIDS[11]}.glb"
    assert sorted(p.suffix for p in (tmp_path / "files").rglob("*") if p.is_file()) == [".glb"] * 5 + [".json"] * 5


def test_without_an_lvis_category_the_first_of_sketchfab_counts(hub: Hub, tmp_path: Path) -> None:
    categories = {item["uid"]: item["category"] for item in source(hub, tmp_path, all=True).items()}
    assert [categories[UIDS[i]] for i in (3, 21, 22)] == ["chair", "Furniture & Home", ""]


def test_a_second_run_transfers_nothing(hub: Hub, tmp_path: Path) -> None:
    first = fetch_all(source(hub, tmp_path, categories=("chair",)))
    before = len(hub.log)
    assert fetch_all(source(hub, tmp_path, categories=("chair",))) == first
    assert len(hub.log) == before


def test_added_uids_transfer_only_themselves(hub: Hub, tmp_path: Path) -> None:
    listed = tmp_path / "uids.txt"
    listed.write_text("\n".join(UIDS[:30]))
    fetch_all(source(hub, tmp_path, uids_file=str(listed)))
    before = len(hub.requests("glbs/"))
    listed.write_text("\n".join(UIDS[:50]))
    assert len(fetch_all(source(hub, tmp_path, uids_file=str(listed)))) == 50
    assert (before, len(hub.requests("glbs/"))) == (30, 50)
    assert not (set(hub.requests()) - {None})


def test_a_larger_count_holds_the_smaller_one(hub: Hub, tmp_path: Path) -> None:
    small = uids(source(hub, tmp_path, count=10, seed=1))
    assert len(small) == 10
    assert set(small) < set(uids(source(hub, tmp_path, count=25, seed=1)))
    assert small == uids(source(hub, tmp_path, count=10, seed=1))
    assert small != uids(source(hub, tmp_path, count=10, seed=2))
    assert len(uids(source(hub, tmp_path, count=1000))) == 60


def test_selections_hold_together(hub: Hub, tmp_path: Path) -> None:
    assert uids(source(hub, tmp_path, licences=("cc0",))) == UIDS[2::3]
    assert uids(source(hub, tmp_path, licences=("cc0", "by"), categories=("chair",))) == [
        UIDS[i] for i in (0, 2, 3, 5, 6, 8, 9)
    ]
    (tmp_path / "u.json").write_text(json.dumps(UIDS[5:12]))
    assert uids(source(hub, tmp_path, uids_file=str(tmp_path / "u.json"), categories=("chair",))) == UIDS[5:10]


def test_a_selection_must_be_said(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="selects nothing"):
        uids(source(hub, tmp_path))
    assert hub.log == []
    with pytest.raises(UserError, match="selects no object"):
        uids(source(hub, tmp_path, categories=("Christmas_tree",), licences=("by-nc",)))


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"categories": ("chairs",)}, "LVIS category 'chairs'; the nearest are chair"),
        ({"categories": ("christmas tree",)}, "nearest are Christmas_tree"),
        ({"licences": ("cc-by",)}, "licence 'cc-by'; the nearest are .*by"),
        ({"categories": ("zzzz",)}, "unknown LVIS category 'zzzz'; there are Christmas_tree, chair"),
    ],
)
def test_misspelled_names_are_answered_with_the_nearest(
    hub: Hub, tmp_path: Path, selection: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        uids(source(hub, tmp_path, **selection))


def test_an_unknown_uid_is_a_failure_not_a_gap(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "u.txt").write_text(f"# mine\n{UIDS[4]}.glb\n{UIDS[4]}\n\n../../etc/passwd\nffff  # a comment\n")
    one = source(hub, tmp_path, uids_file=str(tmp_path / "u.txt"))
    items = list(one.items())
    assert [item["uid"] for item in items] == ["../../etc/passwd", UIDS[4], "ffff"]
    one.fetch(items[1])
    for item in (items[0], items[2]):
        with pytest.raises(ObjectError) as caught:
            one.fetch(item)
        assert caught.value.kind == "not_in_index"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("u.txt", "a\nb\n"),
        ("u.csv", "uid\na\nb\n"),
        ("u.csv", "a,x\nb,y\n"),
        ("u.csv", "n,uid\n1,a\n2,b\n"),
        ("u.json", '["a", "b"]'),
        ("u.json", '{"uids": ["a", "b", "a"]}'),
    ],
)
def test_lists_of_uids(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_uids(str(tmp_path / name), print) == ["a", "b"]


U, V = "8476c4170df24cf5bbe6967222d1a42d", "f53d75bd123b40bca14d12d54286f432"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("u.txt", f"glbs/000-023/{U}.glb\n./glbs/000-023/{V}.glb\n"),
        ("u.txt", f"uid\r\n{U.upper()}.GLB\r\n'{V}'  # a comment\r\n"),
        ("u.txt", f"D:\\data\\{U}\\model.glb\nhttps://host/resolve/main/glbs/000-023/{V}.glb?download=true\n"),
        ("u.csv", f"path;category\nglbs/000-023/{U}.glb;chair\nglbs/000-023/{V}.glb;lamp\n"),
        ("u.tsv", f"n\tuid\n1\t{U}\n2\t{V}\n"),
        ("u.json", json.dumps({U: f"glbs/000-023/{U}.glb", V: f"glbs/000-023/{V}.glb"})),
        ("u.json", json.dumps({"0/10001": f"000-023/{U}.glb", "0/10002": f"000-023/{V}.glb"})),
        ("u.json", json.dumps({"chair": [U], "lamp": [V, U], "table": []})),
        ("u.json", json.dumps({U: {"uid": U, "name": "x"}, V: {"uid": V, "tags": []}})),
        ("u.json", json.dumps([{"uid": U, "name": "x"}, {"uid": V}])),
        ("u.json", json.dumps([f"000-023/{U}.glb", f"000-023/{V}.glb"])),
        ("u.json", json.dumps({"uids": [U, V], "count": 2})),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_of_uids_as_paths_and_as_objaverse_publishes_them(
    tmp_path: Path, name: str, text: str, encoding: str
) -> None:
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert read_uids(str(tmp_path / name), print) == [U, V]
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert read_uids(str(tmp_path / f"{name}.gz"), print) == [U, V]


@pytest.mark.parametrize(
    ("name", "text"),
    [("u.txt", "\n"), ("u.json", "{"), ("u.json", "[1]"), ("u.json", '{"a": 1}'), ("nowhere.txt", None)],
)
def test_no_list_of_uids(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="uids_file"):
        read_uids(str(tmp_path / name), print)


def test_only_the_metadata_that_is_needed_is_fetched(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "u.txt").write_text(UIDS[0])
    uids(source(hub, tmp_path, uids_file=str(tmp_path / "u.txt")))
    assert [name for name, _ in hub.log] == [
        "object-paths.json.gz",
        "lvis-annotations.json.gz",
        "metadata/000-000.json.gz",
    ]


@pytest.mark.parametrize("name", ["object-paths.json.gz", "lvis-annotations.json.gz", "metadata/000-000.json.gz"])
@pytest.mark.parametrize("damage", ["cut", "empty", "html", "not json"])
def test_a_broken_index_on_disk_is_fetched_again(hub: Hub, tmp_path: Path, name: str, damage: str) -> None:
    one = source(hub, tmp_path, categories=("chair",))
    expected = uids(one)
    cached = tmp_path / "cache" / name
    data = cached.read_bytes()
    broken = {"cut": data[:-20], "empty": b"", "html": b"<html></html>", "not json": gzip.compress(b'{"a": ')}
    cached.write_bytes(broken[damage])
    before = len(hub.log)
    assert uids(one) == expected
    assert [entry[0] for entry in hub.log[before:]] == [name]
    assert cached.read_bytes() == data


def test_a_later_listing_does_not_read_the_long_annotations_again(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = source(hub, tmp_path, licences=("by", "cc0"))
    expected = list(one.items())
    metadata = tmp_path / "cache/metadata/000-000.json.gz"
    with monkeypatch.context() as patch:
        patch.setattr("objaverse.load_annotations", None)
        assert list(one.items()) == expected
    renamed = json.loads(gzip.decompress(metadata.read_bytes()))
    renamed[UIDS[0]]["name"] = "another name"
    metadata.write_bytes(gzip.compress(json.dumps(renamed).encode()))
    assert {item["uid"]: item["name"] for item in one.items()}[UIDS[0]] == "another name"


def test_a_mirror_with_another_index_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files["object-paths.json.gz"] = gzip.compress(b'{"a": "a.glb"}')
    with pytest.raises(UserError, match="is not Objaverse's index"):
        uids(source(hub, tmp_path, all=True))


def test_a_hub_out_of_reach_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.always["object-paths.json.gz"] = Fault(status=503)
    with pytest.raises(UserError, match=r"out of reach: .*object-paths.*503.*download\.objaverse\.mirror"):
        uids(source(hub, tmp_path, all=True))
    hub.always["object-paths.json.gz"] = Fault(body=gzip.compress(b"{}")[:-4])
    with pytest.raises(UserError, match="out of reach"):
        uids(source(hub, tmp_path, all=True))
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_a_flaky_hub_costs_retries_and_no_object(hub: Hub, tmp_path: Path) -> None:
    for i, uid in enumerate(UIDS):
        faults = [Fault(status=503), Fault(cut=100 * i), Fault(corrupt=True)]
        hub.faults[f"glbs/000-{i % 3:03d}/{uid}.glb"] = faults[: i % 4]
    rows = fetch_all(source(hub, tmp_path, all=True))
    assert [row["bytes"] for row in rows] == [2000 + i for i in range(60)]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=404), "http_404"),
        (Fault(status=500), "http_500"),
        (Fault(corrupt=True), "checksum"),
        (Fault(body=b"<!doctype html><title>Sign in</title>"), "html_page"),
        (Fault(body=b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), "git_lfs_pointer"),
    ],
)
def test_a_lost_object_leaves_nothing_and_does_not_harm_others(
    hub: Hub, tmp_path: Path, fault: Fault, kind: str
) -> None:
    one = source(hub, tmp_path, categories=("teapot",))
    bad, *good = one.items()
    hub.always[bad["version"]] = fault
    with pytest.raises(ObjectError) as caught:
        one.fetch(bad)
    assert caught.value.kind == kind
    assert caught.value.attempts == (1 if kind in ("http_404", "git_lfs_pointer") else 4)  # type: ignore[attr-defined]
    assert not [p for p in (tmp_path / "files").rglob("*") if p.is_file()]
    for item in good:
        one.fetch(item)
    del hub.always[bad["version"]]
    assert one.fetch(bad)["bytes"] == 2010


@pytest.mark.parametrize("damage", ["no receipt", "torn receipt", "shorter", "same size", "gone"])
def test_a_stored_file_that_is_not_what_its_receipt_says_is_fetched_again(
    hub: Hub, tmp_path: Path, damage: str
) -> None:
    one = source(hub, tmp_path, categories=("Christmas_tree",))
    (item,) = one.items()
    row = one.fetch(item)
    file = tmp_path / "files" / row["path"]
    data = file.read_bytes()
    if damage == "no receipt":
        file.with_suffix(".json").unlink()
    elif damage == "torn receipt":
        file.with_suffix(".json").write_text('{"url": "')
    elif damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if damage == "shorter" else data[:-1] + b"?")
    assert one.fetch(item) == row
    assert file.read_bytes() == data
    assert len(hub.requests("glbs/")) == 2


def test_a_copied_folder_is_recognized_by_content(hub: Hub, tmp_path: Path) -> None:
    one = source(hub, tmp_path, categories=("Christmas_tree",))
    (item,) = one.items()
    file = tmp_path / "files" / one.fetch(item)["path"]
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data)
    one.fetch(item)
    assert len(hub.requests("glbs/")) == 1


def test_a_process_killed_in_the_middle_loses_only_what_it_was_transferring(hub: Hub, tmp_path: Path) -> None:
    for i, uid in enumerate(UIDS):
        if i >= 20:
            hub.faults[f"glbs/000-{i % 3:03d}/{uid}.glb"] = [Fault(cut=1000, stall_s=30)]
    patient = replace(source(hub, tmp_path, all=True).config, transfer=TransferConfig(stall_timeout_s=30))
    program = f"""
        import pickle
        source = pickle.loads({pickle.dumps(ObjaverseSource(patient, str(tmp_path / "files")))!r})
        for item in source.items():
            source.fetch(item)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    limit = time.monotonic() + 30
    while len(hub.requests("glbs/")) < 21 and time.monotonic() < limit:
        time.sleep(0.02)
    time.sleep(0.1)
    child.kill()
    child.wait()
    hub.faults.clear()
    assert len(list((tmp_path / "files").glob("objaverse/*/*.glb"))) == 20
    assert len(fetch_all(source(hub, tmp_path, all=True))) == 60
    assert len(hub.requests("glbs/")) == 61
    quick = replace(PATIENCE, deadline_s=0.01)
    time.sleep(0.05)
    list(ObjaverseSource(replace(patient, transfer=quick), str(tmp_path / "files")).items())
    assert list((tmp_path / "files").glob("objaverse/.partial/*")) == [], "what the killed process left stays forever"


def test_captions_join_the_selected_objects(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "Cap3D.csv").write_text(f'{UIDS[11]},"a pot, white"\n{UIDS[30]},unused\n')
    one = source(hub, tmp_path, categories=("teapot",))
    one.captions = CaptionsConfig(str(tmp_path / "Cap3D.csv"))
    assert [item["captions"] for item in one.items()] == [[], ["a pot, white"], [], [], []]


def test_the_package_never_reaches_for_its_own_address(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError(f"the objaverse package tried to download {args[0]}")

    monkeypatch.setattr("urllib.request.urlretrieve", refuse)
    assert len(uids(source(hub, tmp_path, all=True))) == 60
