"""Surface color of glTF files: factors, textures, samplers, texture coordinates, vertex colors, alpha."""

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sar3d.errors import ObjectError
from sar3d.meshes import MeshLimits, load_scene
from sar3d.meshes.images import decode_image
from sar3d.meshes.scene import Primitive


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def u16(values: Any) -> NDArray[np.uint16]:
    return np.array(values, np.uint16)


def u8(values: Any) -> NDArray[np.uint8]:
    return np.array(values, np.uint8)


QUAD = f32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
UVS = f32([[0, 0], [1, 0], [0, 1], [1, 1]])
PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) + 200
ROOM = 1 << 24


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


PNG = encoded(Image.fromarray(PIXELS))


def data_uri(data: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode()


def document(material: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A quad with two sets of texture coordinates; `changes` replace top-level entries."""
    blob = QUAD.tobytes() + UVS.tobytes() + (UVS * 0.5).tobytes()
    return {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [
            {
                "primitives": [
                    {
                        "attributes": {"POSITION": 0, "TEXCOORD_0": 1, "TEXCOORD_1": 2},
                        "mode": 5,
                        **({} if material is None else {"material": 0}),
                    }
                ]
            }
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5126, "count": 4, "type": "VEC2"},
            {"bufferView": 2, "componentType": 5126, "count": 4, "type": "VEC2"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 48},
            {"buffer": 0, "byteOffset": 48, "byteLength": 32},
            {"buffer": 0, "byteOffset": 80, "byteLength": 32},
        ],
        "buffers": [{"byteLength": len(blob), "uri": data_uri(blob)}],
        "materials": [material or {}],
        "textures": [{"source": 0}],
        "images": [{"uri": data_uri(PNG)}],
        **changes,
    }


def load(folder: Path, source: dict[str, Any], limits: MeshLimits = MeshLimits()) -> Primitive:  # noqa: B008
    (folder / "model.gltf").write_text(json.dumps(source))
    (primitive,) = load_scene(folder / "model.gltf", limits=limits).primitives
    return primitive


def kind(folder: Path, source: dict[str, Any], limits: MeshLimits = MeshLimits()) -> str:  # noqa: B008
    with pytest.raises(ObjectError) as caught:
        load(folder, source, limits)
    return caught.value.kind


def textured(**info: Any) -> dict[str, Any]:
    return {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0, **info}, "baseColorFactor": [0.5, 1, 1, 0.25]}}


def corner_uvs(p: Primitive) -> NDArray[np.float32]:
    """Texture coordinates at the quad's four corners."""
    assert p.uvs is not None
    return np.stack([p.uvs[np.flatnonzero((p.positions == corner).all(axis=1))[0]] for corner in QUAD])


def test_factor_texture_and_defaults(tmp_path: Path) -> None:
    p = load(tmp_path, document(textured()))
    assert p.material.base_color == (0.5, 1.0, 1.0, 0.25)
    assert p.material.texture is not None
    np.testing.assert_array_equal(p.material.texture.pixels, PIXELS)
    assert (p.material.texture.wrap_u, p.material.texture.nearest) == ("repeat", False)
    assert (p.material.alpha_mode, p.material.alpha_cutoff) == ("OPAQUE", 0.5)
    assert not p.material.double_sided
    assert not p.material.unlit
    np.testing.assert_array_equal(corner_uvs(p), UVS)


def test_without_a_material_the_surface_is_white(tmp_path: Path) -> None:
    p = load(tmp_path, document())
    assert p.material.base_color == (1.0, 1.0, 1.0, 1.0)
    assert p.material.texture is None
    assert p.uvs is None


def test_sampler_alpha_and_sidedness(tmp_path: Path) -> None:
    material = {
        **textured(),
        "alphaMode": "MASK",
        "alphaCutoff": 0.3,
        "doubleSided": True,
        "extensions": {"KHR_materials_unlit": {}},
    }
    samplers = [{"wrapS": 33071, "wrapT": 33648, "magFilter": 9728}]
    m = load(tmp_path, document(material, samplers=samplers, textures=[{"source": 0, "sampler": 0}])).material
    assert (m.alpha_mode, m.alpha_cutoff, m.double_sided, m.unlit) == ("MASK", 0.3, True, True)
    assert m.texture is not None
    assert (m.texture.wrap_u, m.texture.wrap_v, m.texture.nearest) == ("clamp", "mirror", True)


def test_the_second_set_of_texture_coordinates(tmp_path: Path) -> None:
    np.testing.assert_array_equal(corner_uvs(load(tmp_path, document(textured(texCoord=1)))), UVS * 0.5)


def test_texture_transform_is_baked_in(tmp_path: Path) -> None:
    angle = 0.3
    transform = {"offset": [0.1, 0.2], "rotation": angle, "scale": [2, 3], "texCoord": 1}
    p = load(tmp_path, document(textured(extensions={"KHR_texture_transform": transform})))
    u, v = (UVS * 0.5 * [2, 3]).T
    # Counter-clockwise where v runs downwards: (1, 0) turns towards negative v.
    turned = [math.cos(angle) * u + math.sin(angle) * v + 0.1, -math.sin(angle) * u + math.cos(angle) * v + 0.2]
    np.testing.assert_allclose(corner_uvs(p), np.stack(turned, axis=1), atol=1e-6)


def test_specular_glossiness_gives_its_diffuse_color(tmp_path: Path) -> None:
    gloss = {"diffuseFactor": [0.1, 0.2, 0.3, 1], "diffuseTexture": {"index": 0}}
    p = load(tmp_path, document({"extensions": {"KHR_materials_pbrSpecularGlossiness": gloss}}))
    assert p.material.base_color == (0.1, 0.2, 0.3, 1.0)
    assert p.material.texture is not None


def test_a_texture_without_coordinates_shows_its_first_texel(tmp_path: Path) -> None:
    source = document(textured())
    del source["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"]
    np.testing.assert_array_equal(corner_uvs(load(tmp_path, source)), np.zeros((4, 2)))


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (f32([[0, 0.5, 1], [1, 1, 1], [0, 0, 0], [2, -1, 0]]), 5126),
        (u8([[0, 51, 255, 102]] * 4), 5121),
        (u16([[0, 13107, 65535, 26214]] * 4), 5123),
    ],
)
def test_vertex_colors_are_linear_fractions(tmp_path: Path, values: NDArray[Any], code: int) -> None:
    source = document()
    source["buffers"].append({"byteLength": values.nbytes, "uri": data_uri(values.tobytes())})
    source["bufferViews"].append({"buffer": 1, "byteLength": values.nbytes})
    width = f"VEC{values.shape[1]}"
    # Integers count as normalized even where the exporter forgot to say so.
    source["accessors"].append({"bufferView": 3, "componentType": code, "count": 4, "type": width})
    source["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"] = 3
    p = load(tmp_path, source)
    assert p.colors is not None
    colors = np.stack([p.colors[np.flatnonzero((p.positions == corner).all(axis=1))[0]] for corner in QUAD])
    if code == 5126:
        np.testing.assert_array_equal(colors, [[0, 0.5, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1], [1, 0, 0, 1]])
    else:
        np.testing.assert_allclose(colors, [[0, 0.2, 1, 0.4]] * 4, atol=1e-6)


def test_equal_materials_are_drawn_at_once_and_their_image_is_decoded_once(tmp_path: Path) -> None:
    source = document(textured())
    primitive = source["meshes"][0]["primitives"][0]
    source["meshes"][0]["primitives"] = [primitive, {**primitive, "material": 1}, {**primitive, "material": 2}]
    other = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 1}}}
    source["materials"] = [textured(), {"name": "again", **textured(index=1)}, other]
    source["textures"] = [{"source": 0}, {"source": 1}]
    source["images"] = [source["images"][0]] * 2
    (tmp_path / "model.gltf").write_text(json.dumps(source))
    first, second = load_scene(tmp_path / "model.gltf").primitives
    assert (len(first.faces), len(second.faces)) == (4, 2)
    assert first.material.texture is second.material.texture


def test_webp_and_fallbacks(tmp_path: Path) -> None:
    webp = data_uri(encoded(Image.fromarray(PIXELS), "WEBP", lossless=True, exact=True))
    offer = {"EXT_texture_webp": {"source": 1}}
    source = document(textured(), images=[{"uri": "absent.ktx2"}, {"uri": webp}], textures=[{"extensions": offer}])
    texture = load(tmp_path, source).material.texture
    assert texture is not None
    np.testing.assert_array_equal(texture.pixels, PIXELS)

    basis = {"KHR_texture_basisu": {"source": 1}}
    fallback = document(textured(), textures=[{"source": 0, "extensions": basis}])
    assert load(tmp_path, fallback).material.texture is not None
    assert kind(tmp_path, document(textured(), textures=[{"extensions": basis}])) == "unsupported_extension"


def test_images_in_files_and_their_reasons(tmp_path: Path) -> None:
    folder = tmp_path / "tex tures"
    folder.mkdir()
    (folder / "ä b.png").write_bytes(PNG)
    (folder / "broken.png").write_bytes(PNG[:40])
    (folder / "text.png").write_text("no image")
    source = document(textured())
    for uri, wanted in (
        ("tex%20tures/%C3%A4%20b.png", None),
        ("tex tures\\ä b.png", None),
        ("absent.png", "missing_file"),
        ("tex%20tures", "missing_file"),
        ("tex%20tures/broken.png", "bad_image"),
        ("tex%20tures/text.png", "bad_image"),
        ("data:image/png;base64,####", "malformed"),
    ):
        source["images"] = [{"uri": uri}]
        if wanted is None:
            assert load(tmp_path, source).material.texture is not None
        else:
            assert kind(tmp_path, source) == wanted


def test_images_that_no_drawn_material_uses_are_not_opened(tmp_path: Path) -> None:
    source = document({"normalTexture": {"index": 0}}, images=[{"uri": "../../absent.png"}])
    assert load(tmp_path, source).material.texture is None


def test_limits_on_pixels(tmp_path: Path) -> None:
    source = document(textured())
    assert kind(tmp_path, source, MeshLimits(texture_pixels=5)) == "texture_too_large"
    assert kind(tmp_path, source, MeshLimits(total_texture_pixels=5)) == "texture_too_large"
    assert load(tmp_path, source, MeshLimits(texture_pixels=6, total_texture_pixels=6)).material.texture is not None


GREY16 = np.array([[0, 256 * 100 + 255], [65535, 256 * 200]], np.uint16)


@pytest.mark.parametrize(
    ("data", "first", "second"),
    [
        (encoded(Image.fromarray(GREY16)), (0, 0, 0, 255), (100, 100, 100, 255)),
        (encoded(Image.fromarray(u8([[7, 9]]))), (7, 7, 7, 255), (9, 9, 9, 255)),
        (encoded(Image.fromarray(u8([[[7, 50], [9, 60]]]), "LA")), (7, 7, 7, 50), (9, 9, 9, 60)),
        (encoded(Image.fromarray(u8([[[1, 2, 3], [4, 5, 6]]]))), (1, 2, 3, 255), (4, 5, 6, 255)),
        (encoded(Image.fromarray(np.array([[False, True]]))), (0, 0, 0, 255), (255, 255, 255, 255)),
    ],
    ids=["grey 16 bit", "grey", "grey alpha", "rgb", "bits"],
)
def test_every_pixel_format_becomes_rgba(data: bytes, first: Any, second: Any) -> None:
    pixels = decode_image(data, ROOM, ROOM)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[0, :2], [first, second])


def test_palettes_keep_color_and_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    pixels = decode_image(encoded(image, transparency=1), ROOM, ROOM)
    np.testing.assert_array_equal(pixels, [[[10, 20, 30, 255], [40, 50, 60, 0]]])


def test_a_large_jpeg_is_reduced_and_a_large_png_refused() -> None:
    image = Image.fromarray(np.tile(u8([[[200, 100, 50]]]), (256, 512, 1)))
    pixels = decode_image(encoded(image, "JPEG", quality=95), 256 * 128, ROOM)
    assert pixels.shape == (128, 256, 4)
    np.testing.assert_allclose(pixels[64, 64], [200, 100, 50, 255], atol=3)
    with pytest.raises(ObjectError) as caught:
        decode_image(encoded(image), 256 * 128, ROOM)
    assert caught.value.kind == "texture_too_large"


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    bomb = bytearray(PNG)
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    import zlib

    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(ObjectError) as caught:
        decode_image(bytes(bomb), ROOM, ROOM)
    assert caught.value.kind == "texture_too_large"
