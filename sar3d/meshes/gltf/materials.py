"""Materials as surface color: base color factor, texture, alpha (glTF 2.0 specification, section 3.9)."""

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.gltf.accessors import view_bytes
from sar3d.meshes.gltf.document import (
    Document,
    Json,
    as_object,
    extension,
    integer,
    number,
    numbers,
    optional_index,
    optional_object,
    text,
)
from sar3d.meshes.images import decode_image
from sar3d.meshes.scene import AlphaMode, Material, Texture, Wrap

_WRAPS: dict[int, Wrap] = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
_NEAREST = 9728
_WHITE = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class SurfaceShading:
    """A material and how to make its texture coordinates."""

    material: Material
    texcoord: int
    """Which TEXCOORD_n the texture uses."""
    uv_transform: NDArray[np.float64] | None
    """(2, 3) of KHR_texture_transform, None where it changes nothing."""


def read_surface(document: Document, index: int | None) -> SurfaceShading:
    """The material `index` (None: the specification's default). Equal materials are one object, so that what they
    cover can be drawn at once. Raises ObjectError for a texture that cannot be read."""
    if index is None:
        return SurfaceShading(_shared(document, Material(double_sided=False), None), 0, None)
    key = ("surface", index)
    if key not in document.materials:
        document.materials[key] = _surface(document, document.item("materials", index))
    surface: SurfaceShading = document.materials[key]
    return surface


def _surface(document: Document, source: Json) -> SurfaceShading:
    factor, info = _base_color(source)
    texture_key, texture, texcoord, transform = None, None, 0, None
    if info is not None:
        texture_key, texture = _texture(document, integer(info, "index"))
        texcoord, transform = _uv_source(info)
    mode = text(source, "alphaMode", "OPAQUE")
    if mode not in ("OPAQUE", "MASK", "BLEND"):
        raise ObjectError("malformed", f"a material has the unknown alphaMode {mode[:20]!r}")
    color = [min(max(value, 0.0), 1.0) for value in factor]
    if color != factor:
        document.warnings.add(f"a material has the base color {_shown(factor)}, outside 0 to 1; it was clipped")
    if not any(color[:3]) and any(numbers(source, "emissiveFactor", (0.0, 0.0, 0.0))):
        document.warnings.add("a material is black but for its emission, which is not drawn")
    material = Material(
        base_color=cast(tuple[float, float, float, float], tuple(color)),
        texture=texture,
        alpha_mode=cast(AlphaMode, mode),
        alpha_cutoff=number(source, "alphaCutoff", 0.5) if mode == "MASK" else 0.5,
        double_sided=source.get("doubleSided") is True,
        unlit=extension(source, "KHR_materials_unlit") is not None,
    )
    return SurfaceShading(_shared(document, material, texture_key), texcoord, transform)


def _shown(factor: list[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in factor)


def _shared(document: Document, material: Material, texture_key: object) -> Material:
    key = ("material", texture_key, *(getattr(material, name) for name in _KEY_FIELDS))
    shared: Material = document.materials.setdefault(key, material)
    return shared


_KEY_FIELDS = ("base_color", "alpha_mode", "alpha_cutoff", "double_sided", "unlit")


def _base_color(source: Json) -> tuple[list[float], Json | None]:
    """(linear RGBA factor, texture info); of the older specular-glossiness model the diffuse color."""
    glossiness = extension(source, "KHR_materials_pbrSpecularGlossiness")
    if glossiness is not None:
        parent, factor, texture = glossiness, "diffuseFactor", "diffuseTexture"
    else:
        parent, factor, texture = (
            optional_object(source, "pbrMetallicRoughness"),
            "baseColorFactor",
            "baseColorTexture",
        )
    info = as_object(parent[texture], texture) if texture in parent else None
    return numbers(parent, factor, _WHITE), info


def _uv_source(info: Json) -> tuple[int, NDArray[np.float64] | None]:
    texcoord = integer(info, "texCoord", 0)
    transform = extension(info, "KHR_texture_transform")
    if transform is None:
        return texcoord, None
    texcoord = integer(transform, "texCoord", texcoord)
    offset = numbers(transform, "offset", (0.0, 0.0))
    scale = numbers(transform, "scale", (1.0, 1.0))
    angle = number(transform, "rotation", 0.0)
    # Counter-clockwise as seen on the image, whose v runs down: the sign viewers agree on.
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    matrix = np.column_stack([rotation * scale, offset])
    return texcoord, None if np.array_equal(matrix, np.eye(2, 3)) else matrix


def _texture(document: Document, index: int) -> tuple[object, Texture]:
    key = ("texture", index)
    if key not in document.materials:
        source = document.item("textures", index)
        image = _image_index(source)
        sampler = document.item("samplers", integer(source, "sampler")) if "sampler" in source else {}
        wrap_u, wrap_v = (_wrap(sampler, name) for name in ("wrapS", "wrapT"))
        nearest = integer(sampler, "magFilter", 0) == _NEAREST
        texture_key = (_image_key(document, image), wrap_u, wrap_v, nearest)
        texture = Texture(_pixels(document, image), wrap_u, wrap_v, nearest)
        document.materials[key] = (texture_key, document.materials.setdefault(("pixels", texture_key), texture))
    found: tuple[object, Texture] = document.materials[key]
    return found


def _wrap(sampler: Json, name: str) -> Wrap:
    code = integer(sampler, name, 10497)
    if code not in _WRAPS:
        raise ObjectError("malformed", f"a sampler has the unknown {name} {code}")
    return _WRAPS[code]


def _image_index(texture: Json) -> int:
    """The image to decode: the core source, which every reader can decode, before what extensions offer."""
    source = optional_index(texture, "source")
    for name in ("EXT_texture_webp", "EXT_texture_avif"):
        offer = extension(texture, name)
        if source is None and offer is not None:
            source = integer(offer, "source")
    if source is None:
        names = ", ".join(sorted(optional_object(texture, "extensions"))) or "an image that it does not name"
        raise ObjectError("unsupported_extension", f"a texture needs {names[:80]}, which cannot be decoded")
    return source


def _image_key(document: Document, index: int) -> object:
    """Where the image's bytes are: files often list one image several times."""
    image = document.item("images", index)
    return text(image, "uri", "") if "uri" in image else integer(image, "bufferView")


def _pixels(document: Document, index: int) -> NDArray[np.uint8]:
    key = _image_key(document, index)
    if key not in document.images:
        data = document.read_uri(key) if isinstance(key, str) else view_bytes(document, cast(int, key)).tobytes()
        room = document.limits.total_texture_pixels - document.pixels_decoded
        pixels = decode_image(data, document.limits.texture_pixels, room)
        document.pixels_decoded += pixels.shape[0] * pixels.shape[1]
        document.images[key] = pixels
    return document.images[key]
