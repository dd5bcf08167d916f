"""A seeded mutator of 3D files and pictures, and the process that loads what it makes.

`inputs(first, count)` are the same for the same numbers on every machine. Each has a folder of its own: the object lies
in `root`, and beside `root` lie files that nobody may open. `handle` runs in a `LimitedProcess` and reports what came of
a file and what was opened.
"""

import io
import json
import os
import random
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sar3d.errors import ObjectError
from sar3d.meshes import load_scene, normalize

FORMATS = ("gltf", "glb", "obj", "mtl", "ply", "binary ply", "stl", "binary stl", "png", "jpeg")
KINDS = {
    *("bad_image", "degenerate", "draco", "empty_file", "git_lfs_pointer", "html_page", "index_out_of_range"),
    *("malformed", "missing_file", "no_faces", "node_cycle", "non_finite", "texture_too_large", "too_large"),
    *("too_many_nodes", "too_many_triangles", "too_many_vertices", "truncated", "unreadable", "unsafe_uri"),
    *("unsupported_extension", "unsupported_version"),
}
"""What a file may be refused for by the readers."""
DRAWING = {"blank_frame", "depth_range", "bad_normal", "empty_scene"}
"""What a scene may be refused for when it is drawn."""
CORNERS = [(x, y, z) for z in (0, 2) for x, y in ((0, 0), (4, 0), (4, 3), (0, 3))]
SIDES = [(0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)]
AREA = 52.0
_HOSTILE_NAMES = [
    *("../secret.png", "..\\secret.png", "/etc/passwd", "C:\\secret.png", "link.png", "linked/secret.png", "~/x"),
    *("file:///etc/passwd", "http://127.0.0.1:9/x.png", "a\0b", "%2e%2e/secret.png", "../../secret.png", "x" * 5000),
    *("sub/../../secret.bin", ".", "..", "", "SKIN.PNG", "skin.png ", "//127.0.0.1/x", "../root/../secret.mtl"),
]
_HOSTILE_WORDS = [
    *("nan", "inf", "-inf", "1e999", "-1", "0", "1e30", "99999999999999999999", "0x10", "1,5", "abc", "--1", "1e", ""),
    *("1.#IND", "-0", "1/2/3/4", "//", "1//", "\0", "\ufeff", "#", "\\", "3 3 3", "2147483648", "1e-320"),
]
_NO_NUMBERS = ["abc", "1,5", "--1", "1e", "x1", "0x10"]
_VALUES: list[Any] = [
    *(None, -1, 0, 1, 2, 1.5, 3.0, 1e308, 2**63, "x", "", [], {}, True, [1], [[]], {"a": 1}, 5121, 5123, 5126),
    *([None] * 4, "data:,", "data:;base64,!!!", 10**15, [0] * 16, "VEC3", "MASK", "../secret.bin", "link.png"),
]


@dataclass
class Case:
    """One input."""

    number: int
    kind: str
    """Of `FORMATS`."""
    files: dict[str, bytes] = field(default_factory=dict)
    """By name relative to the root; the first one is the object."""
    must_refuse: bool = False
    """A number of the geometry cannot be read, so that any scene would be an invention."""
    same_area: bool = False
    """Nothing of the geometry was touched."""


def inputs(first: int, count: int) -> Iterator[Case]:
    for number in range(first, first + count):
        rng = random.Random(f"sar3d {number}")
        case = Case(number, FORMATS[number % len(FORMATS)])
        _MAKERS[case.kind](case, rng)
        yield case


def lay_out(case: Case, folder: Path) -> Path:
    """Write a case below `folder`; returns the object's path, in `folder/root`."""
    root = folder / "root"
    for name, data in case.files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (folder / "secret.png").write_bytes(_picture("PNG"))
    (folder / "secret.bin").write_bytes(bytes(1000))
    (folder / "secret.mtl").write_bytes(b"newmtl skin\nKd 1 0 0\n")
    (root / "link.png").symlink_to(folder / "secret.png")
    (root / "linked").symlink_to(folder)
    return root / next(iter(case.files))


# --- the files before mutation ---------------------------------------------------------------------------------------


def _picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray((np.arange(12 * 12 * 3) % 251).astype(np.uint8).reshape(12, 12, 3)).save(out, kind)
    return out.getvalue()


def _obj() -> str:
    lines = [
        "mtllib m.mtl",
        *(f"v {x} {y} {z}" for x, y, z in CORNERS),
        "vt 0 0",
        "vt 1 0",
        "vt 1 1",
        "vt 0 1",
        "vn 0 0 1",
    ]
    lines += ["usemtl skin", *("f " + " ".join(f"{c + 1}/{k + 1}/1" for k, c in enumerate(side)) for side in SIDES)]
    return "\n".join(lines) + "\n"


def _mtl() -> str:
    return "newmtl skin\nKa 0 0 0\nKd 1 1 1\nd 1.0\nillum 2\nmap_Kd -s 1 1 1 skin.png\n"


def _ply(binary: bool) -> bytes:
    head = ["ply", f"format {'binary_little_endian' if binary else 'ascii'} 1.0", "comment TextureFile skin.png"]
    head += ["element vertex 8", *(f"property float {n}" for n in ("x", "y", "z", "s", "t")), "property uchar red"]
    head += ["property uchar green", "property uchar blue", "element face 7", "property list uchar int vertex_indices"]
    faces = [*SIDES[:5], (3, 0, 4), (3, 4, 7)]
    rows = [(*corner, 0.5, 0.5, 255, 0, 9) for corner in CORNERS]
    if binary:
        body = b"".join(struct.pack("<5f3B", *row) for row in rows)
        body += b"".join(struct.pack(f"<B{len(f)}i", len(f), *f) for f in faces)
    else:
        body = "".join(" ".join(map(str, row)) + "\n" for row in [*rows, *((len(f), *f) for f in faces)]).encode()
    return "\n".join([*head, "end_header\n"]).encode() + body


def _stl(binary: bool) -> bytes:
    triangles = [[CORNERS[f[i]] for i in (0, a, a + 1)] for f in SIDES for a in (1, 2)]
    if binary:
        rows = (struct.pack("<12fH", 0, 0, 1, *(v for c in t for v in c), 0) for t in triangles)
        return b"made".ljust(80) + struct.pack("<I", 12) + b"".join(rows)
    facets = (
        "facet normal 0 0 1\nouter loop\n" + "".join("vertex {} {} {}\n".format(*c) for c in t) for t in triangles
    )
    return ("solid box\n" + "".join(f"{facet}endloop\nendfacet\n" for facet in facets) + "endsolid box\n").encode()


def _gltf() -> tuple[dict[str, Any], bytes]:
    positions = np.array(CORNERS, np.float32)
    faces = np.array([[f[0], f[a], f[a + 1]] for f in SIDES for a in (1, 2)], np.uint16)
    blob = (
        positions.tobytes()
        + np.full((8, 2), 0.5, np.float32).tobytes()
        + np.ones((8, 4), np.float32).tobytes()
        + faces.tobytes()
    )
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [
            {"children": [1], "rotation": [0, 0, 0, 1]},
            {"mesh": 0, "scale": [1, 1, 1], "translation": [0, 0, 0]},
        ],
        "meshes": [
            {
                "primitives": [
                    {"attributes": {"POSITION": 0, "TEXCOORD_0": 1, "COLOR_0": 2}, "indices": 3, "material": 0}
                ]
            }
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 8, "type": "VEC3", "min": [0, 0, 0], "max": [4, 3, 2]},
            {"bufferView": 1, "componentType": 5126, "count": 8, "type": "VEC2"},
            {"bufferView": 2, "componentType": 5126, "count": 8, "type": "VEC4"},
            {"bufferView": 3, "componentType": 5123, "count": 36, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": at, "byteLength": length}
            for at, length in ((0, 96), (96, 64), (160, 128), (288, 72))
        ],
        "buffers": [{"byteLength": len(blob), "uri": "m.bin"}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "baseColorFactor": [1, 1, 1, 1]}}],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"wrapS": 10497}],
        "images": [{"uri": "skin.png"}],
    }
    return document, blob


# --- mutation --------------------------------------------------------------------------------------------------------


def _flipped(data: bytes, rng: random.Random, first: int = 0) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 20])):
        if len(out) > first:
            out[rng.randrange(first, len(out))] = rng.choice([0, 255, 128, 127, rng.randrange(256)])
    choice = rng.random()
    if choice < 0.15:
        return bytes(out[: rng.randrange(len(out) + 1)])
    if choice < 0.25:
        return bytes(out) + rng.randbytes(rng.choice([1, 2, 80]))
    return bytes(out)


def _words(text: str, rng: random.Random, words: list[str]) -> str:
    """One to three words replaced, or lines removed, doubled or swapped."""
    lines = text.split("\n")
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = rng.randrange(len(lines))
        choice, parts = rng.random(), lines[at].split(" ")
        if choice < 0.7:
            parts[rng.randrange(len(parts))] = rng.choice(words)
            lines[at] = " ".join(parts)
        elif choice < 0.8:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif choice < 0.9:
            del lines[at]
        else:
            lines[at] = rng.choice(["\t", " ", "\x0b"]) + lines[at] + rng.choice(["\r", " # said", "\\", "\0"])
        lines = lines or [""]
    return "\n".join(lines)


def _spoiled_coordinate(lines: list[str], which: list[int], rng: random.Random) -> str:
    """The text with a word that is no number in place of a coordinate."""
    at = rng.choice(which)
    parts = lines[at].split()
    parts[rng.randrange(len(parts) - 3, len(parts))] = rng.choice(_NO_NUMBERS)
    return "\n".join([*lines[:at], " ".join(parts), *lines[at + 1 :]])


def _make_obj(case: Case, rng: random.Random) -> None:
    text = _obj()
    lines = text.split("\n")
    if rng.random() < 0.25:
        case.must_refuse = True
        text = _spoiled_coordinate(lines, [i for i, line in enumerate(lines) if line.startswith("v ")], rng)
    else:
        text = _words(text, rng, _HOSTILE_WORDS + _HOSTILE_NAMES)
    case.files = {"m.obj": text.encode("utf-8", "replace"), "m.mtl": _mtl().encode(), "skin.png": _picture("PNG")}


def _make_mtl(case: Case, rng: random.Random) -> None:
    case.same_area = True
    text = _words(_mtl(), rng, _HOSTILE_WORDS + _HOSTILE_NAMES)
    if rng.random() < 0.5:
        text = text.replace("skin.png", rng.choice(_HOSTILE_NAMES))
    obj = _obj().replace("m.mtl", rng.choice(["m.mtl", "m.mtl", *_HOSTILE_NAMES]).replace("\n", ""))
    case.files = {"m.obj": obj.encode(), "m.mtl": text.encode("utf-8", "replace"), "skin.png": _picture("PNG")}


def _make_ply(case: Case, rng: random.Random) -> None:
    data = _ply(case.kind == "binary ply")
    head, end, body = data.partition(b"end_header\n")
    choice = rng.random()
    if choice < 0.25 and case.kind == "ply":
        case.must_refuse = True
        lines = [line.rsplit(" ", 5) for line in body.decode().split("\n")[:8]]
        lines[rng.randrange(8)][0] = rng.choice(["abc 0 0", "0 1,5 0", "0 0 --1"])
        body = ("\n".join([*(" ".join(line) for line in lines), *body.decode().split("\n")[8:]])).encode()
    elif choice < 0.6:
        head = _words(
            head.decode(),
            rng,
            ["8", "9", "7", "0", "-1", "10000000000", "float", "double", "int", "list", *_HOSTILE_NAMES],
        ).encode()
    else:
        body = _flipped(body, rng)
    case.files = {"m.ply": head + end + body, "skin.png": _picture("PNG")}


def _make_stl(case: Case, rng: random.Random) -> None:
    if case.kind == "binary stl":
        data = _stl(True)
        if rng.random() < 0.3:
            data = data[:80] + struct.pack("<I", rng.choice([0, 1, 11, 13, 2**31, 2**32 - 1])) + data[84:]
        else:
            data = _flipped(data, rng)
    else:
        text = _stl(False).decode()
        lines = text.split("\n")
        case.must_refuse = rng.random() < 0.3
        if case.must_refuse:
            text = _spoiled_coordinate(lines, [i for i, line in enumerate(lines) if line.startswith("vertex")], rng)
        else:
            text = _words(text, rng, _HOSTILE_WORDS)
        data = text.encode("utf-8", "replace")
    case.files = {"m.stl": data}


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, child in entries for found in ((*path, key), *_places(child, (*path, key)))]


def _make_gltf(case: Case, rng: random.Random) -> None:
    document, blob = _gltf()
    if rng.random() < 0.7:
        for _ in range(rng.choice([1, 1, 2])):
            places = _places(document)
            *path, key = rng.choice(places)
            parent: Any = document
            for step in path:
                parent = parent[step]
            if rng.random() < 0.15:
                del parent[key]
            else:
                parent[key] = rng.choice([*_VALUES, *_HOSTILE_NAMES]) if key != "uri" else rng.choice(_HOSTILE_NAMES)
    else:
        blob = _flipped(blob, rng)
    if case.kind == "gltf":
        text = json.dumps(document).encode()
        text = _flipped(text, rng) if rng.random() < 0.1 else text
        case.files = {"m.gltf": text, "m.bin": blob, "skin.png": _picture("PNG")}
        return
    if isinstance(document.get("buffers"), list) and document["buffers"] and isinstance(document["buffers"][0], dict):
        document["buffers"][0].pop("uri", None)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    blob += bytes(-len(blob) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(blob), 0x4E4942) + blob
    data = b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body
    case.files = {"m.glb": _flipped(data, rng) if rng.random() < 0.3 else data, "skin.png": _picture("PNG")}


def _make_picture(case: Case, rng: random.Random) -> None:
    case.same_area = True
    data = _picture(case.kind.upper())
    spoil = _png_header if case.kind == "png" and rng.random() < 0.4 else _flipped
    data = spoil(data, rng)
    mtl = _mtl().replace("skin.png", f"skin.{case.kind}")
    case.files = {"m.obj": _obj().encode(), "m.mtl": mtl.encode(), f"skin.{case.kind}": data}


def _png_header(data: bytes, rng: random.Random) -> bytes:
    """Other sizes, depths and color types, under a checksum that is right."""
    width, height = (rng.choice([0, 1, 12, 13, 5000, 60000, 2**31 - 1]) for _ in range(2))
    rest = bytes([rng.choice([1, 2, 4, 8, 16, 3]), rng.choice([0, 2, 3, 4, 6, 5]), 0, 0, rng.choice([0, 1])])
    header = b"IHDR" + struct.pack(">II", width, height) + rest
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


_MAKERS: dict[str, Callable[[Case, random.Random], None]] = {
    **dict.fromkeys(("gltf", "glb"), _make_gltf),
    **dict.fromkeys(("ply", "binary ply"), _make_ply),
    **dict.fromkeys(("stl", "binary stl"), _make_stl),
    **dict.fromkeys(("png", "jpeg"), _make_picture),
    **{"obj": _make_obj, "mtl": _make_mtl},
}


# --- loading ---------------------------------------------------------------------------------------------------------

_opened: list[str] = []
_installed: list[bool] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes):
        _opened.append(os.path.realpath(os.fsdecode(arguments[0])))


def handle(request: dict[str, Any], blobs: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """Load one file, and draw it if asked to; what came of it, and which files were opened for it."""
    if not _installed:
        sys.addaudithook(_note)
        _installed.append(True)
    _opened.clear()
    try:
        reply = _loaded(Path(request["path"]), Path(request["root"]), request["draw"])
    except ObjectError as error:
        reply = {"kind": error.kind, "reason": error.reason}
    return {**reply, "opened": list(dict.fromkeys(_opened))}, []


def _loaded(path: Path, root: Path, draw: bool) -> dict[str, Any]:
    scene = load_scene(path, root)
    total = 0.0
    for p in scene.primitives:
        a, b, c = (p.positions[p.faces[:, i]].astype(np.float64) for i in range(3))
        total += float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
        assert all(values is None or np.isfinite(values).all() for values in (p.positions, p.normals, p.uvs, p.colors))
        assert p.faces.max() < len(p.positions)
    low, high = scene.bounds()
    assert (high - low).max() > 0
    if draw:
        _draw(normalize(scene)[0])
    return {"kind": "", "triangles": scene.triangles, "area": total, "warnings": list(scene.warnings)}


def _draw(scene: Any) -> None:
    from sar3d.camera_layout import CameraLayoutConfig, cameras
    from sar3d.render import RenderSettings, make_renderer

    points = np.concatenate([p.positions[np.unique(p.faces)] for p in scene.primitives])
    layout = cameras(CameraLayoutConfig(views=6), "fuzz", points)
    frames = make_renderer("raycast").render(scene, layout.c2w, layout.K, RenderSettings(resolution=24))
    assert np.isfinite(frames.depth).all()


def faults(case: Case, reply: dict[str, Any], folder: Path) -> list[str]:
    """What is wrong with what `handle` said."""
    found = []
    kind = reply["kind"]
    if kind and kind not in KINDS | DRAWING:
        found.append(f"it was refused as {kind}: {reply['reason']}")
    if kind and ("the file cannot be parsed (" in reply["reason"] or "\n" in reply["reason"] or not reply["reason"]):
        found.append(f"no reader had thought of it: {kind}: {reply['reason']}")
    if case.must_refuse and not kind:
        found.append("a number that cannot be read became one")
    if case.same_area and not kind and abs(reply["area"] - AREA) > 1e-3:
        found.append(f"the area is {reply['area']}, though nothing of the geometry was touched")
    root = os.path.realpath(folder / "root")
    code = tuple(
        map(os.path.realpath, (sys.prefix, sys.base_prefix, Path(__file__).parents[3], "/proc", "/sys", "/dev"))
    )
    outside = [name for name in reply["opened"] if not name.startswith((f"{root}/", *code))]
    return found + [f"{name} was opened" for name in outside]
