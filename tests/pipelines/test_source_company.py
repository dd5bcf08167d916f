"""What lies beside the 3D files of a folder: when a change of it counts, and what is opened with a file."""

import hashlib
from pathlib import Path

from pipelines.sources.company import with_company
from pipelines.sources.directory import DirectoryConfig, DirectorySource

FILES = {
    "shoe/source/shoe.obj": "v1",
    "shoe/source/notes.txt": "v1",
    "shoe/textures/skin.png": "v1",
    "shoe/source/parts/buckle.gltf": "v1",
    "hat/hat.obj": "v1",
    "hat/felt.png": "v1",
    "cup.glb": "v1",
    "bowl.ply": "v1",
    "manifest.csv": "v1",
}


def voided(name: str) -> set[str]:
    """The 3D files whose version changes with that of `name`."""
    before, after = with_company(FILES), with_company({**FILES, name: "v2"})
    return {path for path in after if after[path] != before.get(path)}


def test_a_change_voids_the_objects_that_may_use_it_and_no_others() -> None:
    shoes = {"shoe/source/shoe.obj", "shoe/source/parts/buckle.gltf"}
    assert voided("shoe/textures/skin.png") == {*shoes, "bowl.ply"}
    assert voided("shoe/source/notes.txt") == {"shoe/source/shoe.obj", "bowl.ply"}
    assert voided("hat/felt.png") == {"hat/hat.obj", "bowl.ply"}
    assert voided("cup.glb") == {"cup.glb"}
    assert voided("new/other.obj") == {"new/other.obj"}
    assert voided("new/other.png") == {*shoes, "hat/hat.obj", "bowl.ply"}  # a folder without objects may be for all
    assert voided("manifest.csv") == {"bowl.ply"}


def test_a_file_alone_has_its_own_version_only() -> None:
    assert with_company({"a.obj": "v1", "b/c.gltf": "v2"}) == {"a.obj": "v1", "b/c.gltf": "v2"}


def test_the_content_of_textures_above_the_file_counts(tmp_path: Path) -> None:
    (tmp_path / "shoe/source").mkdir(parents=True)
    (tmp_path / "shoe/textures").mkdir()
    (tmp_path / "shoe/source/shoe.obj").write_text("mtllib shoe.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "shoe/source/shoe.mtl").write_text("newmtl m\nmap_Kd ../Textures/skin.png\n")
    (tmp_path / "shoe/textures/skin.png").write_bytes(b"one")
    one = DirectorySource(DirectoryConfig(path=str(tmp_path)))
    (before,) = ((item["version"], one.fetch(item)["sha256"]) for item in one.items())
    (tmp_path / "shoe/textures/skin.png").write_bytes(b"another")
    (after,) = ((item["version"], one.fetch(item)["sha256"]) for item in one.items())
    assert before[0] != after[0]
    assert before[1] != after[1]
    digests = [
        hashlib.sha256((tmp_path / "shoe" / name).read_bytes()).hexdigest()
        for name in ("textures/skin.png", "source/shoe.mtl")
    ]
    own = hashlib.sha256((tmp_path / "shoe/source/shoe.obj").read_bytes()).hexdigest()
    whole = f"{own}\n../textures/skin.png {digests[0]}\nshoe.mtl {digests[1]}"
    assert after[1] == hashlib.sha256(whole.encode()).hexdigest()


def test_the_root_of_what_was_opened_is_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c.glb").write_bytes(b"glTF")
    one = DirectorySource(DirectoryConfig(path=str(tmp_path)))
    with one.open("a/b/c.glb") as path:
        assert one.root_of("a/b/c.glb", path) == tmp_path
