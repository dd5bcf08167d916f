"""Files beside a 3D file: found in the layouts that people have, and never outside the root."""

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))
from mesh_files import PICTURED, box_obj, picture, refusal, shown, write

from sar3d.meshes import load_safely, load_scene, loader_process
from sar3d.meshes.beside import LocalTree
from sar3d.meshes.references import gather, relative_to_folder


def model(folder: Path, mtl: str = "m.mtl") -> Path:
    """A box with the material `skin` of a library."""
    return write(folder / "m.obj", box_obj(f"mtllib {mtl}", "usemtl skin"))


def library(path: Path, texture: str) -> None:
    write(path, f"newmtl skin\nmap_Kd {texture}\n")


@pytest.mark.parametrize(
    ("texture", "where", "warned"),
    [
        ("skin.png", "objects/shoe/source/skin.png", False),
        ("./skin.png", "objects/shoe/source/skin.png", False),
        ("maps\\skin.png", "objects/shoe/source/maps/skin.png", False),
        ("../textures/skin.png", "objects/shoe/textures/skin.png", False),
        ("..\\..\\shared\\skin.png", "objects/shared/skin.png", False),
        ("SKIN.PNG", "objects/shoe/source/skin.png", True),
        ("Maps/Skin.png", "objects/shoe/source/maps/skin.png", True),
        ("../Textures/skin.png", "objects/shoe/textures/skin.png", True),
        ("sku\u0308n.png", "objects/shoe/source/sk\u00fcn.png", True),
        ("C:\\Users\\artist\\my shoe\\skin.png", "objects/shoe/source/skin.png", True),
        ("C:\\Users\\artist\\shoe\\maps\\skin.png", "objects/shoe/source/maps/skin.png", True),
        ("C:\\Users\\artist\\shoe\\textures\\skin.png", "objects/shoe/textures/skin.png", True),
        ("\\\\server\\share\\skin.png", "objects/shoe/source/skin.png", True),
        ("/home/artist/skin.png", "objects/shoe/source/skin.png", True),
        ("file:///C:/art/skin.png", "objects/shoe/source/skin.png", True),
        ("maps/skin.png", "objects/shoe/source/skin.png", True),
        ("skin.png", "objects/shoe/source/textures/skin.png", True),
        ("skin.png", "objects/shoe/textures/skin.png", True),
    ],
)
def test_textures_lie_where_people_put_them(tmp_path: Path, texture: str, where: str, warned: bool) -> None:
    picture(tmp_path / where)
    library(tmp_path / "objects/shoe/source/m.mtl", texture)
    scene = load_scene(model(tmp_path / "objects/shoe/source"), tmp_path / "objects")
    assert shown(scene) == PICTURED
    assert bool(scene.warnings) == warned


@pytest.mark.parametrize(
    ("texture", "where", "kind"),
    [
        ("../skin.png", "skin.png", "unsafe_uri"),
        ("../../objects/../skin.png", "skin.png", "unsafe_uri"),
        ("../objects/skin.png", "objects/skin.png", "unsafe_uri"),
        ("link.png", "skin.png", "unsafe_uri"),
        ("linked/skin.png", "skin.png", "unsafe_uri"),
        ("/etc/passwd", "skin.png", "unsafe_uri"),
        ("C:\\skin.png", "skin.png", "unsafe_uri"),
        ("http://example.com/skin.png", "objects/skin.png", "unsafe_uri"),
        ("skin.png", "skin.png", "missing_file"),
        ("a" * 5000, "skin.png", "unsafe_uri"),
        ("/".join(["x"] * 900) + "/y.png", "skin.png", "missing_file"),
        ("skin.png", "objects/other/skin.png", "missing_file"),
        ("sKin.png", "objects/Skin.png", "none"),
        ("pipe.png", "skin.png", "missing_file"),
    ],
)
def test_nothing_outside_the_root_is_opened(tmp_path: Path, texture: str, where: str, kind: str) -> None:
    folder = tmp_path / "objects"
    picture(tmp_path / where)
    library(folder / "m.mtl", texture)
    (folder / "link.png").symlink_to(tmp_path / "skin.png")
    (folder / "linked").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.png")
    path = model(folder)
    opened = opened_beneath(tmp_path, lambda: refusal(path, folder))
    assert opened.pop("answer") == kind
    assert all(Path(name).is_relative_to(folder) for name in opened), opened


_watched: list[tuple[str, dict[str, object]]] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _watched and event == "open" and str(arguments[0]).startswith(_watched[0][0]):
        _watched[0][1][os.path.realpath(str(arguments[0]))] = None


@functools.cache
def _install() -> None:
    sys.addaudithook(_watch)  # once: a hook cannot be taken off


def opened_beneath(folder: Path, call: Callable[[], str]) -> dict[str, object]:
    """What `call` returns as `answer`, and the files below `folder` that it opened."""
    _install()
    found: dict[str, object] = {}
    _watched[:] = [(str(folder), found)]
    try:
        answer = call()
    finally:
        _watched.clear()
    return {**found, "answer": answer}


def test_two_files_that_differ_in_capitals_only_leave_a_reference_open(tmp_path: Path) -> None:
    picture(tmp_path / "skin.png")
    picture(tmp_path / "SKIN.png")
    library(tmp_path / "m.mtl", "Skin.png")
    assert refusal(model(tmp_path)) == "missing_file"


def test_a_library_in_a_folder_of_its_own(tmp_path: Path) -> None:
    picture(tmp_path / "materials/skin.png")
    picture(tmp_path / "skin.png", (1, 2, 3))
    library(tmp_path / "materials/m.mtl", "skin.png")
    path = model(tmp_path, "materials/m.mtl")
    assert shown(load_scene(path)) == PICTURED  # beside the library, where it says
    (tmp_path / "materials/skin.png").unlink()
    assert shown(load_scene(path)) == {"[1, 2, 3] over [0, 255, 0]"}


def test_the_root_is_the_files_own_folder_unless_said(tmp_path: Path) -> None:
    picture(tmp_path / "textures/skin.png")
    library(tmp_path / "source/m.mtl", "../textures/skin.png")
    path = model(tmp_path / "source")
    assert refusal(path) == "unsafe_uri"
    assert refusal(path, tmp_path) == "none"
    assert refusal(path, tmp_path / "textures") == "unsafe_uri"
    with loader_process() as process:
        scene = load_safely(path, tmp_path, process=process)
    assert shown(scene) == PICTURED
    assert scene.warnings == ()


def test_a_linked_object_keeps_its_own_folder(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere/skin.png")
    picture(tmp_path / "secret.png")
    library(tmp_path / "elsewhere/m.mtl", "skin.png")
    model(tmp_path / "elsewhere")
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects/link").symlink_to(tmp_path / "elsewhere")
    path = tmp_path / "objects/link/m.obj"
    assert refusal(path, tmp_path / "objects") == "none"
    library(tmp_path / "elsewhere/m.mtl", "../secret.png")
    assert refusal(path, tmp_path / "objects") in ("unsafe_uri", "missing_file")


def test_gltf_images_are_found_in_the_same_way(tmp_path: Path) -> None:
    document = {
        "asset": {"version": "2.0"},
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "material": 0}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5126, "count": 3, "type": "VEC2"},
        ],
        "bufferViews": [{"buffer": 0, "byteLength": 36}, {"buffer": 0, "byteOffset": 36, "byteLength": 24}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "textures": [{"source": 0}],
    }
    write(tmp_path / "source/Data.bin", np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, *[0] * 6], np.float32).tobytes())
    picture(tmp_path / "textures/my skin.png")
    for uri in (
        "../textures/my%20skin.png",
        "../Textures/my skin.png",
        "..\\textures\\my%20skin.png",
        "C:/a/my skin.png",
    ):
        document.update(buffers=[{"byteLength": 60, "uri": "data.bin"}], images=[{"uri": uri}])
        path = write(tmp_path / "source/m.gltf", json.dumps(document))
        scene = load_scene(path, tmp_path)
        assert shown(scene) == PICTURED
        assert any("'Data.bin'" in s or "source/Data.bin" in s for s in scene.warnings)


def test_what_a_file_refers_to_is_gathered_as_the_loader_finds_it(tmp_path: Path) -> None:
    for name in ("textures/skin.png", "source/bump.png", "source/my.png"):
        picture(tmp_path / name)
    text = "newmtl skin\nmap_Kd -s 1 1 1 ../Textures/SKIN.png\nbump -bm 2 bump.png\nmap_Ks gone.png\n"
    write(tmp_path / "source/parts/m.mtl", text)
    write(tmp_path / "source/m.obj", box_obj("# mtllib gone.mtl\nmtllib parts\\m.mtl", "usemtl skin"))
    write(tmp_path / "source/m.ply", "ply\nformat ascii 1.0\ncomment TextureFile my.png\nend_header\n")
    tree = LocalTree(tmp_path, "source")
    found = gather(tree, "source/m.obj", tmp_path.joinpath)
    assert sorted(found) == ["source/bump.png", "source/parts/m.mtl", "textures/skin.png"]
    assert gather(tree, "source/m.ply", tmp_path.joinpath) == ["source/my.png"]
    assert relative_to_folder("textures/skin.png", "source") == PurePosixPath("../textures/skin.png")
    assert relative_to_folder("source/a/b.png", "source") == PurePosixPath("a/b.png")
