"""Every malformed glTF file ends in an `ObjectError` of the right kind, whatever is wrong with it."""

import base64
import copy
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes import load_scene, sniff


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


POSITIONS = f32([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
BLOB = POSITIONS.tobytes() + np.array([0, 1, 2], np.uint16).tobytes()
Json = dict[str, Any]


def base() -> Json:
    """A valid triangle; the buffer is the BIN chunk."""
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "count": 3, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteLength": 36},
            {"buffer": 0, "byteOffset": 36, "byteLength": 6},
        ],
        "buffers": [{"byteLength": 42}],
    }


def glb(document: Json | bytes, blob: bytes = BLOB) -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    blob += bytes(-len(blob) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(blob), 0x4E4942) + blob
    return b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body


def failure(folder: Path, data: bytes, name: str = "model.glb") -> ObjectError:
    path = folder / name
    path.write_bytes(data)
    with pytest.raises(ObjectError) as caught:
        load_scene(path)
    return caught.value


def changed(change: Callable[[Json], Any], blob: bytes = BLOB) -> bytes:
    document = base()
    change(document)
    return glb(document, blob)


def test_the_unchanged_file_loads(tmp_path: Path) -> None:
    (tmp_path / "model.glb").write_bytes(glb(base()))
    assert load_scene(tmp_path / "model.glb").triangles == 1


def test_padding_after_the_declared_length_and_unknown_chunks_are_skipped(tmp_path: Path) -> None:
    data = bytearray(glb(base()) + struct.pack("<II", 4, 0x12345678) + b"abcd")
    data[8:12] = struct.pack("<I", len(data))
    (tmp_path / "model.glb").write_bytes(bytes(data) + b"trailing junk")
    assert load_scene(tmp_path / "model.glb").triangles == 1


CONTAINERS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty_file"),
    "header cut": (b"glTF\2\0\0", "truncated"),
    "version 1": (b"glTF" + struct.pack("<II", 1, 20) + bytes(8), "unsupported_version"),
    "file cut": (glb(base())[:-10], "truncated"),
    "magic": (b"PK\3\4" + bytes(60), "malformed"),
    "no json chunk": (b"glTF" + struct.pack("<IIII", 2, 24, 4, 0x4E4942) + bytes(4), "malformed"),
    "not utf-8": (glb(b'{"asset": "\xff"}'), "malformed"),
    "nested": (glb(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), "malformed"),
    "a list": (glb(b"[1]"), "malformed"),
    "NaN": (glb(b'{"asset": {"version": "2.0"}, "x": NaN}'), "malformed"),
    "bom": (glb(b"\xef\xbb\xbf{}"), "malformed"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git_lfs_pointer"),
    "html": (b"\n <!DOCTYPE HTML><html></html>", "html_page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "html_page"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(tmp_path: Path, name: str) -> None:
    data, kind = CONTAINERS[name]
    assert failure(tmp_path, data).kind == kind


@pytest.mark.parametrize("name", ["empty", "lfs", "html", "xml", "magic"])
def test_impostors_are_told_from_their_first_bytes(name: str) -> None:
    data, kind = CONTAINERS[name]
    with pytest.raises(ObjectError) as caught:
        sniff(data[:512], ".GLB")
    assert caught.value.kind == kind
    sniff(glb(base())[:512], ".glb")


def put(*keys: Any, value: Any) -> Callable[[Json], None]:
    def change(document: Json) -> None:
        place: Any = document
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


PRIMITIVE = ("meshes", 0, "primitives", 0)
CHANGES: dict[str, tuple[Callable[[Json], Any], str]] = {
    "gltf 1": (put("asset", "version", value="1.0"), "unsupported_version"),
    "gltf 2.9 needed": (put("asset", "minVersion", value="2.9"), "unsupported_version"),
    "no version": (put("asset", value={}), "malformed"),
    "meshopt": (put("extensionsRequired", value=["EXT_meshopt_compression"]), "unsupported_extension"),
    "unknown extension": (put("extensionsRequired", value=["ACME_secret"]), "unsupported_extension"),
    "buffer cut": (put("buffers", 0, "byteLength", value=100), "truncated"),
    "view past buffer": (put("bufferViews", 0, "byteLength", value=43), "truncated"),
    "accessor past view": (put("accessors", 0, "count", value=4), "truncated"),
    "strided past view": (put("bufferViews", 0, "byteStride", value=16), "truncated"),
    "stride too small": (put("bufferViews", 0, "byteStride", value=4), "malformed"),
    "negative offset": (put("bufferViews", 1, "byteOffset", value=-4), "malformed"),
    "huge count": (put("accessors", 0, value={"componentType": 5126, "count": 10**12, "type": "VEC3"}), "too_many_vertices"),
    "string count": (put("accessors", 0, "count", value="3"), "malformed"),
    "boolean index": (put(*PRIMITIVE, "indices", value=True), "malformed"),
    "unknown component": (put("accessors", 0, "componentType", value=5130), "malformed"),
    "wrong width": (put("accessors", 0, "type", value="VEC2"), "malformed"),
    "float indices": (put(*PRIMITIVE, "indices", value=0), "malformed"),
    "no such accessor": (put(*PRIMITIVE, "indices", value=9), "malformed"),
    "no such mesh": (put("nodes", 0, "mesh", value=1), "malformed"),
    "no such scene": (put("scene", value=1), "malformed"),
    "unknown mode": (put(*PRIMITIVE, "mode", value=7), "malformed"),
    "index range": (put("accessors", 0, "count", value=2), "index_out_of_range"),
    "no positions": (put(*PRIMITIVE, "attributes", value={}), "no_faces"),
    "no primitives": (put("meshes", 0, "primitives", value=[]), "no_faces"),
    "empty": (lambda d: [d.pop(k) for k in list(d) if k != "asset"], "no_faces"),
    "own child": (put("nodes", value=[{"mesh": 0, "children": [0]}]), "node_cycle"),
    "cycle": (put("nodes", value=[{"children": [1]}, {"children": [2]}, {"children": [1]}]), "malformed"),
    "far cycle": (put("nodes", value=[{"mesh": 0}, {"children": [2]}, {"children": [1]}]), "node_cycle"),
    "two parents": (put("nodes", value=[{"mesh": 0}, {"children": [0]}, {"children": [0]}]), "malformed"),
    "no such child": (put("nodes", 0, "children", value=[5]), "malformed"),
    "endless matrix": (put("nodes", 0, "matrix", value=[1e300] * 16), "non_finite"),
    "short matrix": (put("nodes", 0, "matrix", value=[1] * 9), "malformed"),
    "zero rotation": (put("nodes", 0, "rotation", value=[0, 0, 0, 0]), "malformed"),
    "absurd scale": (put("nodes", 0, "scale", value=[1e30, 1, 1]), "non_finite"),
    "flattened to a point": (put("nodes", 0, "scale", value=[0, 0, 0]), "degenerate"),
    "nodes as object": (put("nodes", value={}), "malformed"),
    "node as number": (put("nodes", value=[7]), "malformed"),
    "no such skin": (
        lambda d: (d["nodes"][0].update(skin=0), d["meshes"][0]["primitives"][0]["attributes"].update(JOINTS_0=0)),
        "malformed",
    ),
    "material as string": (put(*PRIMITIVE, "material", value="red"), "malformed"),
    "short color": (
        lambda d: (
            put(*PRIMITIVE, "material", value=0)(d),
            d.update(materials=[{"pbrMetallicRoughness": {"baseColorFactor": [1, 1]}}]),
        ),
        "malformed",
    ),
    "buffer from the network": (put("buffers", 0, "uri", value="http://127.0.0.1/a.bin"), "unsafe_uri"),
    "sparse index": (
        put("accessors", 0, "sparse", value={
            "count": 1,
            "indices": {"bufferView": 1, "byteOffset": 4, "componentType": 5125},
            "values": {"bufferView": 0},
        }),
        "truncated",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_documents(tmp_path: Path, name: str) -> None:
    change, kind = CHANGES[name]
    error = failure(tmp_path, changed(change))
    assert error.kind == kind, error.reason
    assert error.reason
    assert "\n" not in error.reason


def test_a_number_too_large_for_a_float_is_not_finite(tmp_path: Path) -> None:
    text = json.dumps({**base(), "nodes": [{"mesh": 0, "scale": [777, 1, 1]}]})
    assert failure(tmp_path, glb(text.replace("777", "1e999").encode())).kind == "non_finite"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e18])
def test_positions_that_are_not_finite_or_absurd(tmp_path: Path, value: float) -> None:
    blob = bytearray(BLOB)
    blob[4:8] = np.float32(value).tobytes()
    assert failure(tmp_path, glb(base(), bytes(blob))).kind == "non_finite"


def test_a_missing_extension_is_named(tmp_path: Path) -> None:
    error = failure(tmp_path, changed(put("extensionsRequired", value=["EXT_meshopt_compression"])))
    assert error.reason == "it needs EXT_meshopt_compression, which cannot be decoded"


@pytest.mark.parametrize(
    "uri",
    [
        "../secret.bin",
        "%2e%2e/secret.bin",
        "sub/../../secret.bin",
        "..\\secret.bin",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "file:///etc/passwd",
        "http://example.com/a.bin",
        "//example.com/a.bin",
        "C:\\a.bin",
        "link.bin",
        "linked/secret.bin",
        "a\0b",
        "",
    ],
)
def test_references_never_leave_the_folder(tmp_path: Path, uri: str) -> None:
    folder = tmp_path / "object"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(BLOB)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "linked").symlink_to(tmp_path)
    document = base()
    document["buffers"][0]["uri"] = uri
    assert failure(folder, json.dumps(document).encode(), "model.gltf").kind == "unsafe_uri"


def test_references_inside_the_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(BLOB)
    (tmp_path / "link.bin").symlink_to(tmp_path / "real.bin")
    (tmp_path / "model.gltf").write_text(
        json.dumps({**base(), "buffers": [{"byteLength": 42, "uri": "sub/..//./link.bin"}]})
    )
    (tmp_path / "sub").mkdir()
    assert load_scene(tmp_path / "model.gltf").triangles == 1


def test_data_uris(tmp_path: Path) -> None:
    text = base64.b64encode(BLOB).decode().rstrip("=")
    for uri in (f"data:;base64,{text}", "data:," + "".join(f"%{byte:02x}" for byte in BLOB)):
        document = {**base(), "buffers": [{"byteLength": 42, "uri": uri}]}
        (tmp_path / "model.gltf").write_text(json.dumps(document))
        assert load_scene(tmp_path / "model.gltf").triangles == 1


def test_files_that_are_not_there_or_not_supported(tmp_path: Path) -> None:
    for name, kind in (("absent.glb", "missing_file"), ("model.fbx", "unsupported_format")):
        with pytest.raises(ObjectError) as caught:
            load_scene(tmp_path / name)
        assert caught.value.kind == kind
    (tmp_path / "folder.glb").mkdir()
    with pytest.raises(ObjectError) as caught:
        load_scene(tmp_path / "folder.glb")
    assert caught.value.kind == "missing_file"


def refusal(path: Path) -> str:
    """Why the file does not load, "" if it does; any other exception than ObjectError fails the test."""
    try:
        load_scene(path)
    except ObjectError as error:
        return error.reason
    return ""


VALUES: list[Any] = [
    None,
    -1,
    0,
    2,
    1.5,
    1e308,
    "x",
    [],
    {},
    True,
    [1],
    {"a": 1},
    10**15,
    5121,
    [[]],
    2**63,
    [None] * 16,
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, child in entries:
        found += [(*path, key), *places(child, (*path, key))]
    return found


def test_any_value_at_any_place_loads_or_is_refused(tmp_path: Path) -> None:
    document = base()
    document["materials"] = [{"pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 1]}, "alphaMode": "MASK"}]
    document["meshes"][0]["primitives"][0]["material"] = 0
    document["nodes"][0].update(rotation=[0, 0, 0, 1], scale=[1, 1, 1], skin=0)
    document["skins"] = [{"joints": [0]}]
    path, refused = tmp_path / "model.glb", 0
    for place in places(document):
        for value in VALUES:
            mutated = copy.deepcopy(document)
            put(*place, value=value)(mutated)
            path.write_bytes(glb(mutated))
            reason = refusal(path)
            refused += bool(reason)
            assert "cannot be parsed (" not in reason, (place, value)  # validated, not caught by the net
    assert refused > 500


def test_any_bytes_load_or_are_refused(tmp_path: Path) -> None:
    rng, whole = random.Random(0), glb(base())
    path = tmp_path / "model.glb"
    for _ in range(800):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 3, 20])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randrange(len(data)) if rng.random() < 0.3 else None])
        refusal(path)
