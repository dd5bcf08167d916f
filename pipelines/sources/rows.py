"""Items and rows: the parts that every source makes in the same way."""

from collections.abc import Iterable
from typing import Any

from pipelines.sources.base import Item, ObjectRow
from sar3d.errors import ObjectError


def item_of(
    uid: str,
    path: str,
    version: str | None,
    *,
    name: str | None = None,
    category: str | None = None,
    tags: Iterable[str] = (),
    captions: Iterable[str] = (),
    licence: str | None = None,
    author: str | None = None,
    source: str | None = None,
    **more: Any,
) -> Item:
    """A listed object. `version` changes when the file does; `more` is what the source's own `fetch` needs."""
    return {
        "uid": uid,
        "path": path,
        "version": version,
        "name": name or "",
        "category": category or "",
        "tags": list(tags),
        "captions": list(captions),
        "licence": licence or "",
        "author": author or "",
        "source": source or "",
        **more,
    }


def row_of(item: Item, sha256: str, size: int) -> ObjectRow:
    """The row of an object that was fetched: `sha256` (hex) and `size` (bytes) are those of its file."""
    described = ("name", "category", "tags", "captions", "licence", "author", "source")
    known = {key: item[key] for key in ("attributes", "held_out") if item.get(key)}
    return {
        "uid": item["uid"],
        "path": item["path"],
        "sha256": sha256,
        "bytes": size,
        **{key: item[key] for key in described},
        **known,
    }


def fault(kind: str, reason: str) -> dict[str, Any]:
    """For an item that is known to be unusable when it is listed: it fails when it is fetched, and so is reported."""
    return {"fault": [kind, reason]}


def raise_fault(item: Item) -> None:
    """Raises the `ObjectError` of an item listed with a `fault`."""
    if found := item.get("fault"):
        raise ObjectError(*found)
