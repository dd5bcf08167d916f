"""glTF that the specification forbids: refused, or drawn as viewers draw it, and always said."""

import copy
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes import Scene, load_scene

Json = dict[str, Any]
POSITIONS = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [9, 9, 9]], np.float32)
UVS = np.array([[0, 0], [1, 0], [0, 1], [0, 0]], np.float32)
COLORS = np.ones((4, 4), np.float32)
PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def document() -> Json:
    """A textured, colored triangle, and a vertex that belongs to none."""
    return {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "translation": [5, 0, 0], "rotation": [0, 0, 0, 1], "scale": [1, 1, 1]}],
        "meshes": [
            {
                "primitives": [
                    {"attributes": {"POSITION": 0, "TEXCOORD_0": 1, "COLOR_0": 2}, "indices": 3, "material": 0}
                ]
            }
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5126, "count": 4, "type": "VEC2"},
            {"bufferView": 2, "componentType": 5126, "count": 4, "type": "VEC4"},
            {"bufferView": 3, "componentType": 5123, "count": 3, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 48},
            {"buffer": 0, "byteOffset": 48, "byteLength": 32},
            {"buffer": 0, "byteOffset": 80, "byteLength": 64},
            {"buffer": 0, "byteOffset": 144, "byteLength": 6},
        ],
        "buffers": [{"byteLength": 150}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "baseColorFactor": [1, 1, 1, 1]}}],
        "textures": [{"source": 0}],
        "images": [{"uri": PNG}],
    }


def blob(positions: NDArray[Any] = POSITIONS, uvs: NDArray[Any] = UVS, colors: NDArray[Any] = COLORS) -> bytes:
    return positions.tobytes() + uvs.tobytes() + colors.tobytes() + np.array([0, 1, 2], np.uint16).tobytes()


def load(folder: Path, source: Json | str, data: bytes | None = None) -> Scene:
    text = (source if isinstance(source, str) else json.dumps(source)).encode()
    text += b" " * (-len(text) % 4)
    data = blob() if data is None else data
    data += bytes(-len(data) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x4E4942) + data
    (folder / "m.glb").write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body)
    return load_scene(folder / "m.glb")


def changed(change: Callable[[Json], Any]) -> Json:
    made = copy.deepcopy(document())
    change(made)
    return made


def test_nothing_is_said_of_what_is_right(tmp_path: Path) -> None:
    assert load(tmp_path, document()).warnings == ()


def node(**values: Any) -> Callable[[Json], Any]:
    return lambda d: d["nodes"][0].update(values)


NULLS: dict[str, tuple[Callable[[Json], Any], list[float]]] = {
    "rotation of nulls": (node(rotation=[None] * 4), [5, 0, 0]),
    "rotation": (node(rotation=None), [5, 0, 0]),
    "translation": (node(translation=None), [0, 0, 0]),
    "translation of nulls": (node(translation=[None, 2, None]), [0, 2, 0]),
    "scale of nulls": (node(scale=[None] * 3), [5, 0, 0]),
    "matrix of nulls": (
        lambda d: d.update(nodes=[{"mesh": 0, "matrix": [None] * 12 + [7, None, None, None]}]),
        [7, 0, 0],
    ),
    "optional entries": (
        node(skin=None, children=None, camera=None, name=None, weights=None, extensions=None),
        [5, 0, 0],
    ),
    "material parts": (
        lambda d: d["materials"][0].update(alphaMode=None, normalTexture=None, emissiveFactor=None),
        [5, 0, 0],
    ),
    "sampler": (lambda d: d["textures"][0].update(sampler=None, name=None), [5, 0, 0]),
    "color": (lambda d: d["materials"][0]["pbrMetallicRoughness"].update(baseColorFactor=[None] * 4), [5, 0, 0]),
}


@pytest.mark.parametrize("name", NULLS)
def test_nulls_stand_for_the_default(tmp_path: Path, name: str) -> None:
    change, corner = NULLS[name]
    scene = load(tmp_path, changed(change))
    np.testing.assert_allclose(scene.bounds(), [corner, np.add(corner, [1, 2, 0])], atol=1e-6)
    assert any("null" in sentence for sentence in scene.warnings)


def test_nulls_in_extras_mean_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, changed(node(extras={"a": None, "b": [None]}))).warnings == ()


def test_integers_may_be_written_as_fractions(tmp_path: Path) -> None:
    text = json.dumps(changed(lambda d: d["nodes"].append({"children": [0]})))
    text = text.replace('"count": 4', '"count": 4.0').replace('"children": [0]', '"children": [0.0]')
    text = text.replace('"nodes": [0]', '"nodes": [1.0]').replace('"mesh": 0', '"mesh": 0e0').replace("5126", "5126.0")
    scene = load(tmp_path, text)
    assert scene.triangles == 1
    assert scene.warnings == ("some of its integers are written as fractions, such as 24.0; they are read as integers",)
    with pytest.raises(ObjectError, match="malformed"):
        load(tmp_path, text.replace('"count": 4.0', '"count": 4.5'))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_number_in_what_decides_nothing(tmp_path: Path, value: float) -> None:
    uvs, colors, positions = UVS.copy(), COLORS.copy(), POSITIONS.copy()
    uvs[1, 0] = value
    scene = load(tmp_path, document(), blob(uvs=uvs))
    assert any("1 of its texture coordinates" in sentence for sentence in scene.warnings)
    assert scene.primitives[0].uvs is not None
    np.testing.assert_allclose(scene.primitives[0].uvs, [[0, 0], [0, 0.5], [0, 1]])  # the mean of the other two
    colors[0] = value
    scene = load(tmp_path, document(), blob(colors=colors))
    assert any("colors" in sentence for sentence in scene.warnings)
    np.testing.assert_array_equal(scene.primitives[0].colors, np.ones((3, 4)))  # type: ignore[arg-type]
    positions[3] = value
    scene = load(tmp_path, document(), blob(positions))
    assert any("of no face" in sentence for sentence in scene.warnings)
    positions[2] = value
    with pytest.raises(ObjectError, match="non_finite"):
        load(tmp_path, document(), blob(positions))


def test_broken_normals_are_said_too(tmp_path: Path) -> None:
    source = changed(lambda d: d["meshes"][0]["primitives"][0]["attributes"].update(NORMAL=0))
    assert any("vertex normals" in sentence for sentence in load(tmp_path, source).warnings)  # the first one is zero


def interleaved(stride: Json) -> tuple[Json, bytes]:
    """Positions and texture coordinates by turns: 20 bytes a vertex."""
    rows = np.concatenate([POSITIONS, UVS], axis=1)
    source = changed(lambda d: d["meshes"][0]["primitives"][0]["attributes"].pop("COLOR_0"))
    source["accessors"][1].update(bufferView=0, byteOffset=12)
    source["accessors"][3].update(bufferView=1)
    source["bufferViews"] = [
        {"buffer": 0, "byteLength": 80, **stride},
        {"buffer": 0, "byteOffset": 80, "byteLength": 6},
    ]
    source["buffers"] = [{"byteLength": 86}]
    return source, rows.tobytes() + np.array([0, 1, 2], np.uint16).tobytes()


def test_interleaved_data_need_a_stride(tmp_path: Path) -> None:
    scene = load(tmp_path, *interleaved({"byteStride": 20}))
    np.testing.assert_allclose(scene.bounds(), [[5, 0, 0], [6, 2, 0]])
    for stride in ({}, {"byteStride": 0}):
        with pytest.raises(ObjectError, match="byteStride") as caught:
            load(tmp_path, *interleaved(stride))
        assert caught.value.kind == "malformed"
    views = changed(lambda d: d["bufferViews"][1].update(byteOffset=12, byteLength=100))  # a view for each attribute
    with pytest.raises(ObjectError, match="interleaved"):
        load(tmp_path, views)


def test_a_stride_of_zero_on_separate_data_is_said(tmp_path: Path) -> None:
    scene = load(tmp_path, changed(lambda d: d["bufferViews"][0].update(byteStride=0)))
    assert scene.warnings == ("bufferViews[0] has byteStride 0; its elements are read one after another",)


def test_one_accessor_may_serve_two_attributes(tmp_path: Path) -> None:
    source = changed(lambda d: d["meshes"][0]["primitives"][0]["attributes"].update(TEXCOORD_1=1))
    assert load(tmp_path, source).warnings == ()


def test_a_missing_set_of_texture_coordinates(tmp_path: Path) -> None:
    def ask(d: Json) -> None:
        d["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["texCoord"] = 1

    scene = load(tmp_path, changed(ask))
    assert any("TEXCOORD_1" in sentence and "one color" in sentence for sentence in scene.warnings)


@pytest.mark.parametrize("normalized", [False, True])
def test_integer_positions_take_an_extension(tmp_path: Path, normalized: bool) -> None:
    positions = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 2, 0, 0], [9, 9, 9, 0]], np.int16)

    def quantize(d: Json) -> None:
        d["accessors"][0].update(componentType=5122, normalized=normalized)
        d["bufferViews"][0].update(byteLength=32, byteStride=8)
        for view in d["bufferViews"][1:]:
            view["byteOffset"] -= 16
        d["buffers"][0]["byteLength"] -= 16

    source = changed(quantize)
    data = positions.tobytes() + blob()[48:]
    scene = load(tmp_path, source, data)
    assert any("POSITION" in sentence and "KHR_mesh_quantization" in sentence for sentence in scene.warnings)
    for key in ("extensionsUsed", "extensionsRequired"):
        source[key] = ["KHR_mesh_quantization"]
        assert load(tmp_path, source, data).warnings == ()


@pytest.mark.parametrize(
    ("factor", "color"),
    [([1.5, 0.5, -0.25, 1], (1, 0.5, 0, 1)), ([255, 0, 0, 255], (1, 0, 0, 1)), ([1, 1, 1, 1], (1, 1, 1, 1))],
)
def test_base_colors_are_clipped(tmp_path: Path, factor: list[float], color: tuple[float, ...]) -> None:
    source = changed(lambda d: d["materials"][0]["pbrMetallicRoughness"].update(baseColorFactor=factor))
    scene = load(tmp_path, source)
    assert scene.primitives[0].material.base_color == color
    assert any("base color" in sentence for sentence in scene.warnings) == (tuple(factor) != color)


def test_vertex_colors_outside_their_range(tmp_path: Path) -> None:
    scene = load(tmp_path, document(), blob(colors=COLORS * np.float32(3)))
    assert any("vertex colors" in sentence for sentence in scene.warnings)
    assert load(tmp_path, document(), blob(colors=COLORS * np.float32(1.0001))).warnings == ()


def test_attributes_extensions_and_emission_that_are_not_drawn(tmp_path: Path) -> None:
    source = changed(lambda d: d["meshes"][0]["primitives"][0]["attributes"].update(_HEAT=1, COLOR_1=2))
    source["extensionsUsed"] = ["ACME_paint", "KHR_materials_clearcoat"]
    source["materials"][0].update(emissiveFactor=[0, 1, 0])
    source["materials"][0]["pbrMetallicRoughness"]["baseColorFactor"] = [0, 0, 0, 1]
    said = load(tmp_path, source).warnings
    assert [
        word for word in ("'_HEAT'", "'COLOR_1'", "'ACME_paint'", "emission") if not any(word in s for s in said)
    ] == []
    assert len(said) == 4


@pytest.mark.parametrize(
    ("material", "unseen"),
    [
        ({"alphaMode": "BLEND", "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 0]}}, True),
        ({"alphaMode": "MASK", "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 0.4]}}, True),
        ({"alphaMode": "MASK", "alphaCutoff": 0.3, "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 0.4]}}, False),
        ({"alphaMode": "BLEND", "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 0.1]}}, False),
        ({"pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 0]}}, False),
    ],
)
def test_parts_that_no_picture_will_show_are_said(tmp_path: Path, material: Json, unseen: bool) -> None:
    source = document()
    primitive = source["meshes"][0]["primitives"][0]
    source["meshes"][0]["primitives"] = [primitive, {**primitive, "material": 1}]
    source["materials"].append(material)
    said = load(tmp_path, source).warnings
    assert said == (("1 of its 2 triangles are fully transparent, so nothing of them is seen",) if unseen else ())


def test_a_texture_that_is_transparent_everywhere(tmp_path: Path) -> None:
    import base64
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(out, "PNG")
    source = changed(lambda d: d["materials"][0].update(alphaMode="BLEND"))
    source["images"] = [{"uri": "data:;base64," + base64.b64encode(out.getvalue()).decode()}]
    assert any("fully transparent" in sentence for sentence in load(tmp_path, source).warnings)


def test_warnings_are_few_short_and_one_line_each(tmp_path: Path) -> None:
    names = {f"_{i}\n" + "x" * 400: 1 for i in range(100)}
    source = changed(lambda d: d["meshes"][0]["primitives"][0]["attributes"].update(names))
    said = load(tmp_path, source).warnings
    assert len(said) == 20
    assert said[-1] == "and 81 more of the kind"
    assert all(len(sentence) <= 240 and "\n" not in sentence for sentence in said)
