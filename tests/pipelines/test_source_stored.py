"""Sources with and without stored files: the procedural world, and an object store (a local S3 server) for a disk."""

import hashlib
import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from pydantic import TypeAdapter, ValidationError

sys.path.append(str(Path(__file__).parent))
from hub_server import fill_objaverse, glb, serve

from pipelines.sources.captions import CaptionsConfig
from pipelines.sources.config import DownloadConfig, make_source
from pipelines.sources.directory import DirectoryConfig, DirectorySource
from pipelines.sources.objaverse_source import ObjaverseConfig, ObjaverseSource
from pipelines.sources.procedural_source import ProceduralConfig, ProceduralSource
from sar3d.errors import ObjectError, UserError


def procedural(**settings: object) -> ProceduralSource:
    return ProceduralSource(TypeAdapter(ProceduralConfig).validate_python(settings))


def test_procedural_objects_are_made_where_they_are_needed() -> None:
    one = pickle.loads(pickle.dumps(procedural(count=4)))
    items = list(one.items())
    assert [i["uid"] for i in items] == sorted(i["uid"] for i in items)
    rows = [one.fetch(item) for item in items]
    assert [one.fetch(item) for item in items] == rows
    for row in rows:
        assert row["name"]
        assert row["category"] == row["attributes"]["family"]
        assert len(row["captions"]) == 2
        assert "held_out" not in row
        with one.open(row["path"]) as path:
            data = path.read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (row["sha256"], row["bytes"])
        assert not path.exists()
    with pytest.raises(ObjectError) as caught, one.open("procedural/0123.glb"):
        pass
    assert caught.value.kind == "unknown_uid"


def test_more_procedural_objects_hold_the_fewer() -> None:
    few, many = (list(procedural(count=count).items()) for count in (4, 12))
    assert all(item in many for item in few)


def test_held_out_objects_say_so_and_the_others_stay_as_they_are() -> None:
    plain, held = (
        list(procedural(count=80, held_out=rule).items()) for rule in ({}, {"pairs": ["family", "main"], "share": 0.2})
    )
    apart = [item for item in held if "held_out" in item]
    assert 4 < len(apart) < 32
    assert all(item in plain for item in held if item not in apart)
    row = procedural(count=80).fetch(apart[0])
    assert row["held_out"] == "family and main"


def test_captions_from_elsewhere_follow_a_procedural_objects_own(tmp_path: Path) -> None:
    (item,) = procedural(count=1).items()
    (tmp_path / "more.csv").write_text(f"uid,caption\n{item['uid']},a thing\n")
    source = ProceduralSource(ProceduralConfig(count=1), CaptionsConfig(str(tmp_path / "more.csv")))
    (item,) = source.items()
    assert source.fetch(item)["captions"][2:] == ["a thing"]


def test_objaverse_into_an_object_store(s3_root: str, tmp_path: Path) -> None:
    uids = [f"{i:032x}" for i in range(6)]
    with serve() as hub:
        fill_objaverse(hub, {uid: glb(5000 + i, seed=i) for i, uid in enumerate(uids)}, {}, {"cup": uids})
        config = ObjaverseConfig(categories=("cup",), mirror=hub.url, cache=str(tmp_path / "cache"))
        one = pickle.loads(pickle.dumps(ObjaverseSource(config, f"{s3_root}/run")))
        with ThreadPoolExecutor(4) as pool:
            rows = list(pool.map(one.fetch, one.items()))
            before = len(hub.log)
            assert list(pool.map(one.fetch, one.items())) == rows
        assert len(hub.log) == before
        fs = fsspec.filesystem("s3")
        fs.pipe_file(f"{s3_root}/run/{rows[3]['path']}", b"cut short")
        assert [one.fetch(item) for item in one.items()] == rows
        assert len(hub.log) == before + 1
    assert json.loads(fs.cat_file(f"{s3_root}/run/objaverse/00/{uids[3]}.json"))["bytes"] == 5003
    with one.open(rows[3]["path"]) as path:
        assert path.suffix == ".glb"
        assert path.read_bytes() == glb(5003, seed=3)
    assert not path.exists()
    fs.rm_file(f"{s3_root}/run/{rows[2]['path']}")
    with pytest.raises(ObjectError) as caught, one.open(rows[2]["path"]):
        pass
    assert caught.value.kind == "missing_file"


def test_a_folder_in_an_object_store(s3_root: str) -> None:
    fs = fsspec.filesystem("s3")
    fs.pipe_file(f"{s3_root}/folder/deep/椅子 1.glb", glb(300))
    fs.pipe_file(f"{s3_root}/folder/b.glb", glb(400))
    fs.pipe_file(
        f"{s3_root}/folder/manifest.json", json.dumps([{"file": "b.glb", "uid": "b", "caption": "a b"}]).encode()
    )
    one = pickle.loads(pickle.dumps(DirectorySource(DirectoryConfig(f"{s3_root}/folder"))))
    items = {item["path"]: item for item in one.items()}
    assert set(items) == {"deep/椅子 1.glb", "b.glb"}
    rows = {path: one.fetch(item) for path, item in items.items()}
    assert (rows["b.glb"]["captions"], rows["deep/椅子 1.glb"]["bytes"]) == (["a b"], 300)
    with one.open("deep/椅子 1.glb") as path:
        assert path.read_bytes() == glb(300)
    assert not path.exists()
    fs.pipe_file(f"{s3_root}/folder/b.glb", glb(400, seed=9))
    with pytest.raises(ObjectError) as caught:
        one.fetch(items["b.glb"])
    assert caught.value.kind == "changed"
    with pytest.raises(UserError, match="does not exist"):
        list(DirectorySource(DirectoryConfig(f"{s3_root}/nowhere")).items())


def test_a_configuration_makes_its_source(tmp_path: Path) -> None:
    read = TypeAdapter(DownloadConfig).validate_python
    assert make_source(read({}), str(tmp_path)).kind == "procedural"
    folder = make_source(
        read({"source": "directory", "directory": {"path": "/x"}, "captions": {"path": "c.csv"}}), "/f"
    )
    assert folder == DirectorySource(DirectoryConfig("/x"), CaptionsConfig("c.csv"))
    chosen = make_source(read({"source": "objaverse", "objaverse": {"categories": ["chair"], "count": 3}}), "s3://b/f")
    assert isinstance(chosen, ObjaverseSource)
    assert (chosen.config.categories, chosen.files_root) == (("chair",), "s3://b/f")


@pytest.mark.parametrize(
    "wrong",
    [
        {"sauce": "objaverse"},
        {"source": "thingiverse"},
        {"procedural": {"cuont": 3}},
        {"procedural": {"count": 0}},
        {"procedural": {"held_out": {"pairs": ["family", "color"]}}},
        {"objaverse": {"count": "many"}},
        {"objaverse": {"transfer": {"attempts": 0}}},
        {"captions": {"paths": "x"}},
    ],
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(DownloadConfig).validate_python(wrong)
