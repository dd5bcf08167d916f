"""What the stage `generate` is asked for: a file of prompts, or objects of the dataset as their own prompts."""

import csv
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipelines.caching.view_objects import view_items
from pipelines.runtime.output import Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import rows_of
from pipelines.runtime.stage import Log
from pipelines.runtime.store import is_remote, join
from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import ObjectError, UserError
from sar3d.generate.prompts import check_seed
from sar3d.spacing import evenly_spaced

SUFFIXES = (".jsonl", ".json", ".yaml", ".yml", ".csv")
KEYS = ("id", "text", "image", "seed")
_LONGEST_NAME = 80


def file_items(file: str, kinds: tuple[ConditionKind, ...], seed: int) -> Iterator[Item]:
    """One item per prompt of a file, in its order; `seed` is that of prompts which name none.

    Paths of pictures are relative to the file. What a picture shows is part of the item, so a changed one is made anew.

    Raises:
        UserError: the file cannot be read, or a prompt is none; prompts whose content is bad fail one by one, later.
    """
    places: dict[str, str] = {}
    for place, entry in _entries(file):
        where = f"{place} of {file}"
        text, image, uid, chosen = _checked(entry, where, seed)
        if uid in places:
            raise UserError(
                f"{places[uid]} and {place} of {file} both make the object {uid!r}: give each its own `id` (the key id), "
                "or another seed"
            )
        places[uid] = place
        kind: ConditionKind = "text" if image is None else "image"
        if kind not in kinds:
            raise UserError(f"{where} is of the kind {kind}, which generate.kinds leaves out: add it there")
        if image is None:
            yield {"uid": uid, "kind": kind, "text": text, "seed": chosen}
        else:
            place = image if is_remote(image) or os.path.isabs(image) else join(os.path.dirname(file) or ".", image)
            yield {"uid": uid, "kind": kind, "sha256": content_of(place), "seed": chosen, "_path": place}


def _checked(entry: Any, where: str, seed: int) -> tuple[str | None, str | None, str, int]:
    """Text or picture, id, seed."""
    if not isinstance(entry, dict):
        raise UserError(f"{where} is no record: give {', '.join(KEYS)}")
    given = {key: value for key, value in entry.items() if value not in (None, "")}
    unknown = sorted(str(key) for key in given if key not in KEYS)
    if unknown:
        raise UserError(f"{where} has {unknown[0]!r}, which means nothing: a prompt has {', '.join(KEYS)}")
    text, image = entry.get("text"), given.get("image")
    if (text is None or (image is not None and text == "")) == (image is None):
        raise UserError(f"{where} needs either a text or an image")
    content = text if image is None else image
    if not isinstance(content, str):
        raise UserError(f"{where} has {content!r} where a text belongs: put it in quotes")
    try:
        chosen = check_seed(int(given.get("seed", seed)))
    except (ValueError, TypeError, ObjectError) as error:
        raise UserError(f"{where} has the seed {given.get('seed')!r}: give a whole number from 0") from error
    uid = str(given.get("id", f"{name_of_prompt(content if image is None else Path(image).stem)}-{chosen}"))
    if uid != name_of(uid):
        raise UserError(
            f"{where} has the id {given.get('id')!r}, which names a folder of files: use up to {_LONGEST_NAME} letters, "
            "digits, dots, dashes and underscores"
        )
    return (text if image is None else None), image, uid, chosen


def name_of(text: str) -> str:
    """A short name for files and rows made of a text; equal texts give equal names, different ones different names."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
    if name and name == text and len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME // 2].strip('-._')}-{digest}".lstrip("-")


def name_of_prompt(text: str) -> str:
    """As `name_of`; case and white space do not tell prompts apart."""
    return name_of("-".join(text.lower().split()))


def content_of(place: str) -> str:
    """sha256 of a local file; empty for what is missing or remote, which shows when it is read."""
    if is_remote(place) or not os.path.isfile(place):
        return ""
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(file: str) -> Iterator[tuple[str, Any]]:
    """Every prompt of a file, and its place in it."""
    suffix = Path(file).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"the prompts {file} are of no kind that is read: give one of {', '.join(SUFFIXES)}")
    try:
        if suffix == ".jsonl":
            yield from _json_lines(file)
        elif suffix == ".csv":
            with open(file, newline="", encoding="utf-8-sig") as stream:
                reader = csv.DictReader(stream)
                yield from ((f"line {reader.line_num}", row) for row in reader)
        else:
            with open(file, encoding="utf-8") as stream:
                values = _listed(json.load(stream) if suffix == ".json" else yaml.safe_load(stream), file)
                yield from ((f"prompt {number}", value) for number, value in enumerate(values, 1))
    except FileNotFoundError as error:
        raise UserError(f"there is no file of prompts {file}: set generate.prompts to one") from error
    except (OSError, ValueError, yaml.YAMLError, csv.Error) as error:
        raise UserError(f"the prompts {file} cannot be read: {' '.join(str(error).split())}") from error


def _json_lines(file: str) -> Iterator[tuple[str, Any]]:
    with open(file, encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {number} is no JSON ({error})") from error


def _listed(values: Any, file: str) -> list[Any]:
    if isinstance(values, dict) and set(values) == {"prompts"}:
        values = values["prompts"]
    if not isinstance(values, list):
        raise UserError(f"the prompts {file} are no list: give a list of records with {', '.join(KEYS)}")
    return values


def dataset_items(
    views: Output, objects: Output | None, kinds: tuple[ConditionKind, ...], count: int, seed: int, log: Log
) -> Iterator[Item]:
    """Prompts that objects of the dataset are to be compared with: the first caption, and a view, of `count` of them.

    The objects are spread evenly over the views. `objects` is the output of `download`, needed for texts.
    """
    chosen = _spread(views, count)
    captions: dict[str, str] = {}
    if "text" in kinds and objects is not None:
        rows = rows_of(objects, {item["uid"] for item in chosen})
        captions = {row["uid"]: row["captions"][0] for row in rows if row["captions"]}
    for item, kind in itertools.product(chosen, kinds):
        base = {**item, "uid": f"{name_of(item['uid'])}.{kind}", "object": item["uid"], "kind": kind, "seed": seed}
        if kind == "image":
            yield base
        elif item["uid"] in captions:
            yield {**base, "text": captions[item["uid"]]}
        else:
            log(f"generate: {item['uid']} has no caption and is no prompt")


def _spread(views: Output, count: int) -> list[Item]:
    """`count` objects, evenly over the views; of an object in several files the first part."""
    total = sum(1 for item in view_items(views) if ":" not in item["uid"])
    wanted = set(evenly_spaced(range(total), count))
    firsts = (item for item in view_items(views) if ":" not in item["uid"])
    return [item for place, item in enumerate(firsts) if place in wanted]
