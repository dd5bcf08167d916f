"""What a stage reads, declared once, on the fields of its section:

    views: str = rows("views", default="render")                 # the stage whose rows it reads
    vqvae: str = model("vqvae", of="train_vqvae")                # a folder, a URL, or a stage that trains one
    held_out: HeldOut = same_as("train_vqvae.data.held_out")     # a setting of another section, copied

From these the engine derives which stages are read, absolute paths, the folders that every node must see, the digests
in the identity, inherited defaults, and whether models fit each other.
"""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pipelines.runtime.store import is_remote
from sar3d.errors import UserError

When = Callable[[Any], bool]
"""Says of the object that holds a field whether the field is used under its settings."""

_DECLARED, _SAME_AS, _LISTED, _WHEN, _PLACE = "declared", "same_as", "listed", "when", "place"
Reader = Literal["nodes", "driver", "weights"]


@dataclass(frozen=True)
class Rows:
    """The field names a stage whose rows are read."""

    schema: str


@dataclass(frozen=True)
class Model:
    """The field names a model: a folder, a URL, or a stage that trains one."""

    kind: str
    """As in the model's config.json; empty: the kind that the stage itself makes."""
    of: str
    """The stage that is meant where nothing is given; empty: then there is none."""


D = TypeVar("D", Rows, Model)


def _always(_: Any) -> bool:
    return True


def rows(schema: str, default: str, *, when: When = _always) -> Any:
    """A field with the name of a stage that writes `schema`, whose rows are read."""
    return field(default=default, metadata={_DECLARED: Rows(schema), _WHEN: when})


def model(kind: str, *, of: str, inherit: str = "", when: When = _always) -> Any:
    """A field with the folder or URL of a model of this kind, or the name of a stage that trains one.

    Args:
        of: the stage whose model is meant where neither the field nor the one it inherits from names one.
        inherit: another model field, as `section.field`, whose value is the default.
    """
    metadata = {_DECLARED: Model(kind, of), _SAME_AS: inherit, _WHEN: when, _PLACE: "nodes", "identity": "listing"}
    return field(default="", metadata=metadata)


def same_as(path: str, *, identity: bool | str = True) -> Any:
    """A field that has the value of another section's setting, unless it is set itself."""
    return field(default=None, metadata={_SAME_AS: path, "identity": identity})


def listed(stage: str) -> Any:
    """A field that is true where the configuration's `stages` name this stage, unless it is set itself."""
    return field(default=None, metadata={_LISTED: stage})


def folder(default: Any = "") -> Any:
    """A field with a folder, file or URL that every node reads. What it holds counts, not where it lies."""
    return field(default=default, metadata={_PLACE: "nodes", "identity": "listing"})


def folders() -> Any:
    """A field with folders, files or URLs by name, that every node reads. What they hold counts, not where they lie."""
    return field(default_factory=dict, metadata={_PLACE: "nodes", "identity": "listing"})


def driver_file(default: Any = "") -> Any:
    """A field with a file or URL that the driver alone reads; a submitted job brings it with its working directory."""
    return field(default=default, metadata={_PLACE: "driver", "identity": "listing"})


def weights(inherit: str = "") -> Any:
    """A field with a folder of weights that every node reads, or a repository of the Hugging Face hub.

    Args:
        inherit: another such field, as `section.field`, whose value is the default.
    """
    return field(default="", metadata={_PLACE: "weights", _SAME_AS: inherit, "identity": "listing"})


def chosen(default_factory: Any, *, when: When) -> Any:
    """A field with settings of its own that are used only where `when` says so."""
    return field(default_factory=default_factory, metadata={_WHEN: when})


def used(owner: Any, f: "dataclasses.Field[Any]") -> bool:
    """Whether a field is used under its owner's settings."""
    when: When = f.metadata.get(_WHEN, _always)
    return when(owner)


def declared(section: Any, kind: type[D]) -> Iterator[tuple[str, D]]:
    """Name and declaration of the section's fields of this kind that are used under its settings."""
    for f in dataclasses.fields(section):
        found = f.metadata.get(_DECLARED)
        if isinstance(found, kind) and used(section, f):
            yield f.name, found


def producer(section: Any, name: str, declaration: Rows | Model, stages: Collection[str]) -> str:
    """The stage whose output a declared field means; empty where it names a folder or URL, or nothing."""
    value: str = getattr(section, name)
    if isinstance(declaration, Rows) or value in stages:
        return value
    return "" if value else declaration.of


def inherited(section: Any) -> Iterator[tuple[str, str]]:
    """Name of each used field that has no value of its own yet, and the path of the setting that it takes."""
    return ((n, path) for n, path in inherited_fields(section) if getattr(section, n) in (None, ""))


def inherited_fields(section: Any) -> Iterator[tuple[str, str]]:
    """Name of each used field that may have the value of another setting, and the path of that."""
    fields = (f for f in dataclasses.fields(section) if f.metadata.get(_SAME_AS) and used(section, f))
    return ((f.name, f.metadata[_SAME_AS]) for f in fields)


def settled_by_list(section: Any, stages: Collection[str]) -> dict[str, bool]:
    """Values of the fields that say whether a stage is among the configuration's `stages`."""
    fields = (f for f in dataclasses.fields(section) if _LISTED in f.metadata and getattr(section, f.name) is None)
    return {f.name: f.metadata[_LISTED] in stages for f in fields}


def with_places(value: Any, key: str, change: Callable[[str, str, Reader], str]) -> Any:
    """A copy of settings whose places (`folder`, `model` …), nested ones too, are `change(place, key, reader)`."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    new = {}
    for f in dataclasses.fields(value):
        old, reader = getattr(value, f.name), f.metadata.get(_PLACE)
        if not used(value, f):
            continue
        where = f"{key}.{f.name}"
        made = _moved(old, where, reader, change) if reader and old else with_places(old, where, change)
        if made != old:
            new[f.name] = made
    return dataclasses.replace(value, **new) if new else value


def _moved(value: Any, key: str, reader: Reader, change: Callable[[str, str, Reader], str]) -> Any:
    """A place, or every one of several by name."""
    if isinstance(value, dict):
        return {name: change(place, f"{key}.{name}", reader) for name, place in value.items()}
    return change(value, key, reader)


def shared_folders(value: Any) -> Iterator[str]:
    """Local folders in settings that every node must see; paths are absolute by now, repositories of a hub are not."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return
    for f in dataclasses.fields(value):
        content = getattr(value, f.name)
        if not used(value, f):
            continue
        if f.metadata.get(_PLACE) in ("nodes", "weights"):
            for place in content.values() if isinstance(content, dict) else (content,):
                if place and not is_remote(place) and os.path.isabs(place):
                    yield place
        else:
            yield from shared_folders(content)


def check_producer(section: str, name: str, found: str, wanted: str, writers: Collection[str]) -> None:
    """Raise `UserError` where a field names no stage that writes what is wanted."""
    if found not in writers:
        raise UserError(
            f"{section}.{name}={found} is wrong: name a stage that writes {wanted} ({', '.join(writers) or 'there is none'})"
        )
