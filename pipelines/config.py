"""A configuration: a section per stage, read from YAML and `key=value`, checked, inherited defaults filled in, frozen."""

import dataclasses
import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from pipelines.runtime.cluster import in_job
from pipelines.runtime.inputs import Reader, inherited, inherited_fields, settled_by_list, with_places
from pipelines.runtime.pipeline import Pipeline
from pipelines.runtime.store import is_remote
from pipelines.runtime.tracking import flatten, plain
from sar3d.errors import UserError
from sar3d.presets import filled, merged
from sar3d.presets import used as presets_used

RECIPES = Path(__file__).parent / "recipes"
"""Settings by name, on which a configuration builds: `published` and `short`."""


@dataclass(frozen=True)
class Layer:
    """Settings from one place."""

    origin: str
    values: dict[str, Any]


def load(file: str | Path, overrides: list[str], kind: type[Pipeline]) -> Pipeline:
    """Read a YAML file on top of its recipe and apply `dotted.key=value` overrides.

    Args:
        kind: the class of configurations, see `pipelines.runtime.pipeline.pipeline_of`.

    Raises:
        UserError: naming the key that is wrong.
    """
    path = Path(file)
    recipe, given, _ = layers(path, overrides, kind)
    values = merged(merged({}, recipe.values), given.values)
    for override in overrides:  # an override replaces what was there, a whole section too
        _override(values, override, kind)
    try:
        config = TypeAdapter(kind).validate_python(filled(values, kind))
    except ValidationError as error:
        raise UserError(_explain(error, path, kind)) from error
    return settle(config, path.stem)


def layers(path: Path, overrides: list[str], kind: type[Pipeline]) -> tuple[Layer, Layer, Layer]:
    """The recipe, the file and the overrides, each over the one before it. Raises `UserError`."""
    file, command = _read(path), dict[str, Any]()
    for override in overrides:
        _override(command, override, kind)
    name = str(command.get("recipe", file.get("recipe", "published")))
    if not (RECIPES / f"{name}.yaml").is_file():
        known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise UserError(f"recipe={name} is not a recipe; there are: {known}")
    # A recipe may speak of stages that another pipeline has not got.
    settings = {key: value for key, value in _read(RECIPES / f"{name}.yaml").items() if key in kind.registry}
    return Layer(f"recipe {name}", settings), Layer(str(path), file), Layer("command line", command)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError as error:
        raise UserError(f"there is no configuration file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the configuration {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"the configuration {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"the configuration {path} must hold settings (key: value), not a {type(values).__name__}")
    return values


def origins(config: Pipeline, found: Sequence[Layer]) -> Iterator[tuple[str, Any, str]]:
    """Key, value and origin of every setting: the last layer that gives it, else the setting it is copied from, its preset
    or its default.
    """
    given = [(layer.origin, set(flatten(layer.values))) for layer in reversed(found)]
    sections = {name: getattr(config, name) for name in config.registry}
    elsewhere = {f"{n}.{f}": f"same as {path}" for n, s in sections.items() for f, path in inherited_fields(s)}
    elsewhere |= {path: f"preset {name}" for n, s in sections.items() for path, name in presets_used(s, f"{n}.")}
    for key, value in flatten(plain(config)).items():
        above = [key[: i if i >= 0 else None] for i in _dots(key)]
        origin = next((origin for origin, keys in given if any(part in keys for part in above)), None)
        yield key, value, origin or next((elsewhere[part] for part in above if part in elsewhere), "default")


def _dots(key: str) -> list[int]:
    """Where each prefix of a dotted key ends; -1 for the whole."""
    return [-1, *(i for i, character in enumerate(key) if character == ".")]


def _override(values: dict[str, Any], text: str, kind: type[Pipeline]) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{text!r} is not an override: write key=value, for example render.views=12")
    *parents, last = key.split(".")
    for name in parents:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise UserError(f"{key} cannot be set: {name} is a value, not a section")
    values[last] = _parsed(value, _type_of(key.split("."), kind))


def _type_of(names: list[str], kind: Any) -> Any:
    """The declared type of a setting; None where there is no such setting."""
    for name in names:
        found = get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
        kind = found
    return kind


def _parsed(text: str, declared: Any) -> Any:
    """An override's value: of a setting that is text the text as it stands, of any other setting as YAML reads it."""
    kinds = {k for k in _alternatives(declared) if k is not type(None)}
    if kinds == {str}:
        return None if text == "null" and type(None) in _alternatives(declared) else text
    # A list of texts is read as a list, whose elements stay as they stand.
    loader = yaml.BaseLoader if kinds == {tuple[str, ...]} else yaml.SafeLoader
    try:
        return yaml.load(text, loader) if text else ""
    except yaml.YAMLError:
        return text


def _alternatives(declared: Any) -> set[Any]:
    """The types that a setting may have; a choice among texts is text."""
    origin = get_origin(declared)
    if origin in (Union, UnionType):
        return {kind for part in get_args(declared) for kind in _alternatives(part)}
    if origin is Literal and all(isinstance(value, str) for value in get_args(declared)):
        return {str}
    return {declared}


def _explain(error: ValidationError, path: Path, kind: type[Pipeline]) -> str:
    """The first thing that is wrong, in one sentence."""
    first = error.errors(include_url=False)[0]
    where = [p for p in first["loc"] if isinstance(p, int) or not p.startswith(("function-", "literal", "constrained"))]
    key = ".".join(str(p) for p in where)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        section, names = _section(where[:-1], kind)
        near = difflib.get_close_matches(str(where[-1]), names, n=1)
        hint = (
            f"did you mean {'.'.join([*map(str, where[:-1]), near[0]])}?"
            if near
            else f"{section} has: {', '.join(names)}"
        )
        return f"{key} is not a setting ({path}); {hint}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{key}={first['input']!r} is wrong ({path}): {message}"


def _section(where: list[Any], kind: Any) -> tuple[str, list[str]]:
    for name in where:
        kind = next((f.type for f in dataclasses.fields(kind) if f.name == name), None)
        if not dataclasses.is_dataclass(kind):
            return ".".join(map(str, where)), []
    return ".".join(map(str, where)) or "the configuration", [f.name for f in dataclasses.fields(kind)]


def settle(config: Pipeline, name: str) -> Pipeline:
    """Fill in the root and inherited settings, make local paths absolute, check the stages' names."""
    for stage in config.stages:
        if stage not in config.registry:
            raise UserError(f"stages lists {stage!r}, which is not a stage; there are: {', '.join(config.registry)}")
    if not 0 <= config.max_failure_rate <= 1:
        raise UserError(f"max_failure_rate={config.max_failure_rate:g} is wrong: it is a share between 0 and 1")

    def place(value: str, key: str, reader: Reader) -> str:
        return value if value in config.registry else placed(value, key, reader)

    sections = {n: with_places(getattr(config, n), n, place) for n in config.registry}
    sections = {n: replace(s, **settled_by_list(s, config.stages)) for n, s in sections.items()}
    return replace(config, root=absolute(config.root or f"runs/{name}", "root"), **_inherit(sections))


def _inherit(sections: dict[str, Any]) -> dict[str, Any]:
    """The sections with the settings that they take from each other."""

    def value(path: str, *before: str) -> Any:
        if path in before:
            raise ValueError(f"the default of {path} depends on itself, by {' and '.join(before)}")
        name, *parts = path.split(".")
        if not parts:
            return settled(name, *before, path)
        first, *rest = parts
        pending = dict(inherited(sections[name]))
        found = value(pending[first], *before, path) if first in pending else getattr(sections[name], first)
        for part in rest:
            found = getattr(found, part)
        return found

    def settled(name: str, *before: str) -> Any:
        return replace(sections[name], **{f: value(path, *before) for f, path in inherited(sections[name])})

    return {name: settled(name) for name in sections}


def placed(value: str, key: str, reader: Reader) -> str:
    """A place as every process that reads it will understand it.

    Raises:
        UserError: inside a submitted job, a relative path that the nodes would have to read.
    """
    if reader == "driver":
        return value if is_remote(value) else os.path.abspath(os.path.expanduser(value))
    if reader == "weights" and not os.path.isdir(os.path.expanduser(value)):
        return value
    return absolute(value, key)


def absolute(place: str, key: str) -> str:
    """A local path as every process of the run will understand it. Raises `UserError` inside a submitted job."""
    place = place.removeprefix("file://")
    if is_remote(place) or os.path.isabs(place):
        return place
    if in_job():
        raise UserError(
            f"{key}={place} is relative, and a submitted job runs in a copy of the working directory that is thrown away: "
            f"give an absolute path that every node sees, or a URL"
        )
    return os.path.abspath(os.path.expanduser(place))
