"""JSON that says nothing where it should say something, as some exporters write it: mended as viewers do, and said."""

import re
from typing import Any

from sar3d.meshes.warning_list import WarningList

_DEFAULTS: dict[tuple[str, int], list[float]] = {
    ("translation", 3): [0.0] * 3,
    ("rotation", 4): [0.0, 0.0, 0.0, 1.0],
    ("scale", 3): [1.0] * 3,
    ("matrix", 16): [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
    ("baseColorFactor", 4): [1.0] * 4,
    ("diffuseFactor", 4): [1.0] * 4,
    ("offset", 2): [0.0] * 2,
    ("scale", 2): [1.0] * 2,
}
"""Lists of numbers, by key and length, in which null stands for the specification's default."""
_INTEGERS = (
    rb"buffer(?:View)?|byte(?:Offset|Length|Stride)|count|componentType|mesh|skin|indices|material|scene|source|sampler|"
    rb"index|texCoord|mode|inverseBindMatrices|(?:POSITION|NORMAL|TANGENT|(?:TEXCOORD|COLOR|JOINTS|WEIGHTS)_\d+)"
)
_FLOAT_INTEGER = re.compile(
    rb'"(?:' + _INTEGERS + rb')"\s*:\s*\d+(?:\.|[eE])|"(?:children|nodes|joints)"\s*:\s*\[[^\]"]*\d(?:\.|[eE])'
)


def mended(document: dict[str, Any], text: bytes, warnings: WarningList) -> dict[str, Any]:
    """The parsed JSON of `text` without nulls: entries that are null are taken as absent, and null numbers of a
    transform or a color as its default. Changes `document` itself.

    Integers written as floats (`24.0`), which JSON does not tell apart, are read as integers elsewhere; here they are
    only said.
    """
    if b"null" in text:
        _drop_nulls(document, warnings)
    if _FLOAT_INTEGER.search(text):
        warnings.add("some of its integers are written as fractions, such as 24.0; they are read as integers")
    return document


def _drop_nulls(document: dict[str, Any], warnings: WarningList) -> None:
    pending: list[Any] = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(entry for entry in value if isinstance(entry, dict | list))
            continue
        for key in [key for key, entry in value.items() if entry is None]:
            warnings.add(f"'{key[:40]}' is null and counts as absent")
            del value[key]
        for key, entry in value.items():
            default = _DEFAULTS.get((key, len(entry))) if isinstance(entry, list) else None
            if default is not None and None in entry:
                warnings.add(f"'{key}' has numbers that are null; the default was taken for them")
                value[key] = [d if v is None else v for v, d in zip(entry, default, strict=True)]
            elif isinstance(entry, dict | list) and key != "extras":  # whose content means nothing here
                pending.append(entry)
