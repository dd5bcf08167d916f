"""Generated objects: the rows of the stage `generate`, which hold each object's files and settings."""

import heapq
import json
from collections.abc import Callable, Iterator, Sequence
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
_DECODERS = {"nerf": "marching cubes over the radiance field", "flexicubes": "mesh decoder"}

Draw = Callable[[str, bytes | None], PageImage | None]


def decoder_of(output: Output) -> str:
    """What decoded the tokens of a finished output."""
    for address in output.files():
        with fsspec.open(address, "rb") as file:
            return (pq.read_schema(file).metadata or {}).get(b"decoder", b"nerf").decode()
    return ""


def gallery(
    outputs: Sequence[Output], listing: Output | None, limits: PageLimits, draw: Draw, notes: list[str]
) -> Gallery | None:
    """The first objects of finished outputs, as many as the limits allow; the others are counted.

    Args:
        outputs: one, or one of each decoder; objects of one name stand beside each other.
        listing: the dataset's objects, which have names.
        draw: makes a titled picture of a file's content.
        notes: takes a sentence for each object that cannot be shown.
    """
    total = sum(int((output.manifest() or {}).get("rows", 0)) for output in outputs)
    if not total:
        return None
    objects: list[Made] = []
    size = 0
    labels = [_DECODERS.get(decoder_of(output), "") if len(outputs) > 1 else "" for output in outputs]
    merged = heapq.merge(*map(_rows, outputs, labels), key=lambda entry: str(entry[0]["uid"]))
    for row, output, decoder in merged if limits.objects else ():
        data = row["glb"]
        where = output.store.address(f"files/{row['uid']}")
        if data is None or data[:4] != b"glTF":
            notes.append(f"The generated object {row['uid']} is not shown: its row holds no GLB file.")
            continue
        size += len(data)
        if size > limits.object_bytes:
            break
        objects.append(_made(row, decoder, where, draw, notes))
        if len(objects) == limits.objects:
            break
    names = _names(listing, {made.meant for made in objects if made.meant})
    objects = [replace(made, meant=names.get(made.meant, made.meant)) for made in objects]
    return Gallery(outputs[0].stage, objects, total - len(objects), ", ".join(output.url for output in outputs))


def _rows(output: Output, label: str) -> Iterator[tuple[dict[str, Any], Output, str]]:
    """Row after row, of a shard only what is asked for: the files are large."""
    for address in output.files():
        with fsspec.open(address, "rb") as file:
            parquet = pq.ParquetFile(file)
            columns = [name for name in _COLUMNS if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(1, columns=columns):
                yield from (({**dict.fromkeys(_COLUMNS), **row}, output, label) for row in batch.to_pylist())


def _names(listing: Output | None, uids: set[str]) -> dict[str, str]:
    if listing is None or not uids or listing.finished() is None:
        return {}
    return {row["uid"]: row["name"] for row in rows_of(listing, uids) if row["name"]}


def _made(row: dict[str, Any], decoder: str, where: str, draw: Draw, notes: list[str]) -> Made:
    settings = _settings(row, notes)
    pictures = [draw(title, row[column]) for column, title in _PICTURES.items() if row[column] is not None]
    return Made(
        name=str(row["uid"]),
        prompt=str(row["text"] or _prompt(settings.get("prompt"))),
        meant=str(row["object"] or ""),
        caption=str(settings.get("caption") or ""),
        model=packed(row["glb"]),
        bytes=len(row["glb"]),
        decoder=decoder,
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
