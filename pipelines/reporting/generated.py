"""Generated objects: the rows of the stage `generate`, which hold each object's files and settings."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import fsspec
import pyarrow.parquet as pq

from pipelines.reporting.content import Gallery, Made, PageImage, PageLimits
from pipelines.reporting.media import packed
from pipelines.runtime.output import Output
from pipelines.runtime.reading import rows_of

_PICTURES = {"comparison": "beside what it should look like", "prompt": "the prompt", "png": "all around"}
_COLUMNS = ["uid", "text", "object", "settings", "glb", *_PICTURES]

Draw = Callable[[str, bytes | None], PageImage | None]


def gallery(output: Output, listing: Output | None, limits: PageLimits, draw: Draw, notes: list[str]) -> Gallery | None:
    """The first objects of a finished output, as many as the limits allow; the others are counted.

    Args:
        listing: the dataset's objects, which have names.
        draw: makes a titled picture of a file's content.
        notes: takes a sentence for each object that cannot be shown.
    """
    total = int((output.manifest() or {}).get("rows", 0))
    if not total:
        return None
    objects: list[Made] = []
    size = 0
    for row in _rows(output) if limits.objects else ():
        data = row["glb"]
        where = output.store.address(f"files/{row['uid']}")
        if data is None or data[:4] != b"glTF":
            notes.append(f"The generated object {row['uid']} is not shown: its row holds no GLB file.")
            continue
        size += len(data)
        if size > limits.object_bytes:
            break
        objects.append(_made(row, where, draw, notes))
        if len(objects) == limits.objects:
            break
    names = _names(listing, {made.meant for made in objects if made.meant})
    objects = [replace(made, meant=names.get(made.meant, made.meant)) for made in objects]
    return Gallery(output.stage, objects, total - len(objects), output.url)


def _rows(output: Output) -> Iterator[dict[str, Any]]:
    """Row after row, of a shard only what is asked for: the files are large."""
    for address in output.files():
        with fsspec.open(address, "rb") as file:
            parquet = pq.ParquetFile(file)
            columns = [name for name in _COLUMNS if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(1, columns=columns):
                yield from ({**dict.fromkeys(_COLUMNS), **row} for row in batch.to_pylist())


def _names(listing: Output | None, uids: set[str]) -> dict[str, str]:
    if listing is None or not uids or listing.finished() is None:
        return {}
    return {row["uid"]: row["name"] for row in rows_of(listing, uids) if row["name"]}


def _made(row: dict[str, Any], where: str, draw: Draw, notes: list[str]) -> Made:
    settings = _settings(row, notes)
    pictures = [draw(title, row[column]) for column, title in _PICTURES.items() if row[column] is not None]
    return Made(
        name=str(row["uid"]),
        prompt=str(row["text"] or _prompt(settings.get("prompt"))),
        meant=str(row["object"] or ""),
        caption=str(settings.get("caption") or ""),
        model=packed(row["glb"]),
        bytes=len(row["glb"]),
        pictures=[made for made in pictures if made is not None],
        settings=json.dumps(settings, indent=1, ensure_ascii=False) if settings else "",
        where=where,
    )


def _settings(row: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    try:
        settings = json.loads(row["settings"] or "{}")
    except ValueError as error:
        notes.append(f"The settings of the generated object {row['uid']} cannot be read: {error}.")
        return {}
    return settings if isinstance(settings, dict) else {}


def _prompt(prompt: Any) -> str:
    """What the object was asked for, where that is no text."""
    return str(prompt.get("file") or prompt.get("kind") or "") if isinstance(prompt, dict) else str(prompt or "")
