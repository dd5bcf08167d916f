"""Material libraries (.mtl): what their materials say about the color of a surface."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from sar3d.meshes.beside import Reference, names_of, shown
from sar3d.meshes.warning_list import WarningList

_SHADING = ("map_", "bump", "norm", "refl", "disp", "ps", "pm", "pr", "pc", "pcr", "aniso", "anisor", "vp_")
_WITHOUT_EFFECT = {"ka", "ks", "ke", "ns", "ni", "km", "tf", "illum", "sharpness", "aliasback", "map_aat", "name"}
_CUTOUTS = {"map_d", "map_tr", "map_opacity", "decal"}
_KNOWN = {"kd", "d", "tr", "map_kd"}
_NUMBERS_AFTER = {"-s": 3, "-o": 3, "-t": 3, "-mm": 2, "-bm": 1, "-boost": 1, "-texres": 1}
_WORDS_AFTER = {"-blendu", "-blendv", "-cc", "-clamp", "-imfchan", "-type"}
_RECOLORING = {"-mm", "-cc", "-imfchan", "-t"}
TRANSPARENT = 1 / 255
"""A surface of less opacity shows nothing in an 8-bit picture."""


@dataclass(frozen=True)
class TextureReference:
    """`map_Kd` with its options."""

    name: str
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    clamp: bool = False


@dataclass
class MaterialText:
    """A material as it is written; keywords in lower case, of repeated ones the last."""

    name: str
    library: str
    """Root-relative name of the file."""
    values: dict[str, str] = field(default_factory=dict)


def read_library(data: bytes, library: str) -> Iterator[MaterialText]:
    """The materials of a library in order."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1", "replace")
    material = None
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        keyword, _, rest = line.strip().replace("\t", " ").partition(" ")
        if keyword.startswith("#") or not keyword:
            continue
        if keyword.lower() == "newmtl":
            if material is not None:
                yield material
            material = MaterialText(rest.strip(), library)
        elif material is not None:
            material.values[keyword.lower()] = rest.strip()
    if material is not None:
        yield material


def diffuse(material: MaterialText, warnings: WarningList) -> tuple[float, float, float]:
    """`Kd` as it stands (sRGB), in [0, 1]; white where there is none."""
    words = _uncommented(material.values.get("kd", "1 1 1")).split()
    values = [_number(word) for word in words]
    if len(values) not in (1, 3) or any(value is None for value in values):
        warnings.add(
            f"the color of material {shown(material.name)} is {shown(' '.join(words))}; white was taken for it"
        )
        return 1.0, 1.0, 1.0
    numbers = [value for value in values if value is not None]
    clipped = [min(max(value, 0.0), 1.0) for value in numbers]
    if clipped != numbers:
        warnings.add(f"the color of material {shown(material.name)} lies outside 0 to 1 and was clipped")
    red, green, blue = clipped if len(clipped) == 3 else clipped * 3
    return red, green, blue


def opacity(material: MaterialText, warnings: WarningList) -> float:
    """In [0, 1], from `d`, else from `Tr`.

    MeshLab and mvs-texturing write `Tr 1` for opaque surfaces, others `d 0`; an object's surface that nobody can see is
    a mistake of its writer in either case, so it is drawn opaque, with a warning.
    """
    for keyword in ("d", "tr"):
        if keyword not in material.values:
            continue
        text = _uncommented(material.values[keyword])
        value = _number(text.split()[-1]) if text else None
        if value is None:
            warnings.add(f"{keyword} of material {shown(material.name)} is no number; it is drawn opaque")
            return 1.0
        alpha = min(max(value if keyword == "d" else 1.0 - value, 0.0), 1.0)
        if alpha < TRANSPARENT:
            written = "d 0" if keyword == "d" else "Tr 1"
            warnings.add(f"material {shown(material.name)} is fully transparent ({written}); it is drawn opaque")
            return 1.0
        return alpha
    return 1.0


def texture_reference(
    material: MaterialText, keyword: str, warnings: WarningList | None = None
) -> TextureReference | None:
    """What `keyword`, such as `map_kd`, names, its options read; None without one or with an empty one."""
    line = material.values.get(keyword, "")
    words = line.split()
    scale, offset, clamp, at = (1.0, 1.0), (0.0, 0.0), False, 0
    while at < len(words) and (words[at].lower() in _NUMBERS_AFTER or words[at].lower() in _WORDS_AFTER):
        option, values = words[at].lower(), _arguments(words[at:])
        at += 1 + len(values)
        if option in ("-s", "-o"):
            default = 1.0 if option == "-s" else 0.0
            u, v = ([*map(float, values), default, default])[:2]
            scale, offset = ((u, v), offset) if option == "-s" else (scale, (u, v))
        elif option == "-clamp":
            clamp = values == ["on"]
        elif option in _RECOLORING and values != ["off"] and warnings is not None:
            warnings.add(f"the option {option} of a texture of material {shown(material.name)} is not drawn")
    # What remains is the name as it stands, blanks included.
    name = line.split(None, at)[at] if at < len(words) else ""
    return TextureReference(name, scale, offset, clamp) if name else None


def unread(material: MaterialText, warnings: WarningList) -> None:
    """Warn of what gives the surface a color or a cutout that is not drawn."""
    values = material.values
    for keyword in values:
        known = keyword in _KNOWN or keyword in _WITHOUT_EFFECT
        if keyword in _CUTOUTS or not (known or keyword.startswith(_SHADING)):
            warnings.add(f"{shown(keyword)} of material {shown(material.name)} is not drawn")
    if "kd" not in values and "map_kd" not in values:
        elsewhere = [k for k in ("map_ka", "map_ke", "map_basecolor", "ka", "ke") if k in values]
        if elsewhere:
            warnings.add(
                f"material {shown(material.name)} has {elsewhere[0]} but no Kd and no map_Kd; it is drawn white"
            )


def library_reference(line: str) -> Reference:
    """Of what follows `mtllib`: one file whose name may hold blanks, or several files."""
    words = line.split()
    return Reference(names_of(line), words if len(words) > 1 else ())


def _uncommented(line: str) -> str:
    return line.split(" #")[0].strip()


def _arguments(words: list[str]) -> list[str]:
    """The arguments of the option `words[0]`; numeric options may have fewer than they could."""
    option = words[0].lower()
    if option in _WORDS_AFTER:
        return [word.lower() for word in words[1:2]]
    values = []
    for word in words[1 : 1 + _NUMBERS_AFTER[option]]:
        if _number(word) is None:
            break
        values.append(word)
    return values


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
