"""Settings of a model that build on a preset of its size: what is not given is the preset's."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

PRESETS = "presets"
"""Metadata key of a field: the presets of its value by name; the field `preset` beside it names one."""


def over_preset(presets: Mapping[str, Any]) -> Any:
    """A field with settings (a dataclass) of which those that are not given are those of the preset that the field
    `preset` of the same object names. Call `settle` in `__post_init__`. What counts for the identity is the preset's name
    and what differs from it.
    """

    def changes(owner: Any, name: str) -> dict[str, Any]:
        return differences(presets[owner.preset], getattr(owner, name))

    return dataclasses.field(default=None, metadata={PRESETS: presets, "identity": changes})


def settle(owner: Any) -> None:
    """Give a frozen object its preset's settings where none are given at all."""
    for f in dataclasses.fields(owner):
        if PRESETS in f.metadata and getattr(owner, f.name) is None:
            object.__setattr__(owner, f.name, f.metadata[PRESETS][owner.preset])


def differences(base: Any, value: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from another one of its kind, those of nested ones too."""
    found: dict[str, Any] = {}
    for f in dataclasses.fields(value):
        before, after = getattr(base, f.name), getattr(value, f.name)
        if before != after:
            found[f.name] = differences(before, after) if dataclasses.is_dataclass(after) else after
    return found


def merged(below: Any, above: Any) -> Any:
    """`above` over `below`: sections are merged key by key, anything else is replaced. No section is shared."""
    if not isinstance(above, dict):
        return above
    base = below if isinstance(below, dict) else {}
    return {**base, **{key: merged(base.get(key), value) for key, value in above.items()}}


def filled(values: Any, kind: Any) -> Any:
    """Given settings of a dataclass, as YAML values, on top of the presets that they name."""
    if not isinstance(values, dict) or not dataclasses.is_dataclass(kind):
        return values
    hints, made = get_type_hints(kind), dict(values)
    for f in dataclasses.fields(kind):
        if f.name not in values:
            continue
        if PRESETS not in f.metadata:
            made[f.name] = filled(values[f.name], hints[f.name])
        elif isinstance(values[f.name], dict):
            default = next(g.default for g in dataclasses.fields(kind) if g.name == "preset")
            base = f.metadata[PRESETS].get(values.get("preset", default))
            made[f.name] = values[f.name] if base is None else merged(dataclasses.asdict(base), values[f.name])
    return made


def used(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path of every field of an object that builds on a preset, and the preset's name."""
    for f in dataclasses.fields(value):
        if PRESETS in f.metadata:
            yield f"{prefix}{f.name}", value.preset
        elif dataclasses.is_dataclass(getattr(value, f.name)):
            yield from used(getattr(value, f.name), f"{prefix}{f.name}.")
