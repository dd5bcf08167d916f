"""The JSON values of a saved model's configuration, checked. Needs nothing but Python: models load on a bare machine, too."""

import dataclasses
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sar3d.errors import UserError

T = TypeVar("T")


def read_config(kind: type[T], values: dict[str, Any]) -> T:
    """A configuration of this dataclass: its fields hold numbers, words, tuples of these, and such dataclasses.

    JSON's lists become tuples, and whole numbers do for fractional ones. Raises `UserError` for a key or value that is none.
    """
    try:
        made: T = _read(kind, values, ())
    except _WrongValueError as error:
        raise UserError(f"the model's configuration is wrong at {error.key}: {error.reason}") from error
    return made


class _WrongValueError(Exception):
    def __init__(self, path: tuple[str, ...], reason: str) -> None:
        super().__init__(reason)
        self.key, self.reason = ".".join(path), reason


def _read(kind: Any, value: Any, path: tuple[str, ...]) -> Any:
    """`value` as this type. Raises `_WrongValueError`."""
    origin, parts = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, path)
    if origin in (Union, UnionType):
        return _read_union(parts, value, path)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in parts):
            raise _WrongValueError(path, f"{value!r} is none of {', '.join(map(repr, parts))}")
        return value
    if origin is tuple:
        return _read_tuple(parts, value, path)
    if kind is float:
        return _read_float(value, path)
    plain = origin or kind
    if plain is not Any and type(value) is not plain:
        raise _WrongValueError(path, f"{value!r} is not of the type {plain.__name__}")
    return value


def _read_float(value: Any, path: tuple[str, ...]) -> float:
    try:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return float(value)  # YAML reads 1e-3, without a point, as a word
    except ValueError:
        pass
    raise _WrongValueError(path, f"{value!r} is no number")


def _read_fields(kind: Any, value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, dict):
        raise _WrongValueError(path, f"{value!r} is no table of settings")
    types = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    for key in value:
        if key not in names:
            raise _WrongValueError((*path, str(key)), f"there is no such setting, only {', '.join(names)}")
    return kind(**{key: _read(types[key], item, (*path, key)) for key, item in value.items()})


def _read_union(parts: tuple[Any, ...], value: Any, path: tuple[str, ...]) -> Any:
    """As the first of the types that it fits."""
    if value is None and NoneType in parts:
        return None
    reasons = []
    for part in parts:
        if part is not NoneType:
            try:
                return _read(part, value, path)
            except _WrongValueError as error:
                reasons.append(error)
    raise reasons[0]


def _read_tuple(parts: tuple[Any, ...], value: Any, path: tuple[str, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _WrongValueError(path, f"{value!r} is no list")
    kinds = parts[:1] * len(value) if parts[1:] == (...,) else parts
    if len(kinds) != len(value):
        raise _WrongValueError(path, f"{value!r} has {len(value)} entries instead of {len(kinds)}")
    return tuple(_read(kind, item, (*path, str(i))) for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))
