"""Which objects a pipeline's models are judged by: those that training held out, or else the ones it was given."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import fsspec
import pyarrow.parquet as pq

from pipelines.evaluating.rows import Part, What
from pipelines.runtime.output import Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import rows_of
from pipelines.runtime.stage import Say
from sar3d.data.views import split_of
from sar3d.errors import UserError

Split = Literal["auto", "val", "test", "training"]
Shares = tuple[float, float]
"""Of the objects that validate, and that test."""
_SPARE = 16
"""Objects that are looked up for each one that is wanted, as some have no caption."""


@dataclass(frozen=True)
class Asked:
    """What one part of the evaluation judges by."""

    what: What
    rows: Output
    """The dataset that lists the objects: rows of an object lie together."""
    shares: Shares
    """As the model's training held objects out."""
    described: bool
    """Whether only objects with a caption will do."""


@dataclass(frozen=True)
class _Listed:
    uid: str
    sha256: str
    file: str
    digest: str


def shares_of(config: Any, what: What) -> Shares:
    """The shares of the objects that the training of a pipeline's model held out."""
    stages = {"reconstruction": "train_vqvae", "text": "train_ar", "image": "train_ar_image", "captions": "train_llm"}
    data = getattr(config, stages[what]).data
    return data.val, data.test


def evaluation_items(
    asked: Sequence[Asked], downloads: Output | None, split: Split, count: int, seed: int, say: Say
) -> Iterator[Item]:
    """At most `count` objects for each thing that is judged, spread evenly over those that will do.

    Raises:
        UserError: there is no object of the split, or none of them has a caption where captions are needed.
    """
    for one in asked:
        part, listed = _part(one, split)
        say(f"evaluate: {one.what} is judged by {part} objects, {len(listed):,} in all")
        if one.described:
            yield from _described(one, part, listed, downloads, count, seed)
        else:
            yield from (_item(one, part, entry, seed) for entry in _spread(listed, count))


def _part(asked: Asked, split: Split) -> tuple[Part, list[_Listed]]:
    val, test = asked.shares
    by_split: dict[str, list[_Listed]] = {"train": [], "val": [], "test": []}
    for entry in _listing(asked.rows):
        by_split[split_of(entry.sha256, val, test)].append(entry)
    if split in ("val", "test"):
        if not by_split[split]:
            share = val if split == "val" else test
            raise UserError(
                f"evaluate.split={split} holds no object of {asked.rows.stage} (a share of {share:g}): set evaluate.split=auto, "
                "or hold more objects out of training"
            )
        return "heldout", by_split[split]
    held_out = sorted(by_split["val"] + by_split["test"], key=lambda entry: entry.uid)
    if split == "auto" and held_out:
        return "heldout", held_out
    if not by_split["train"]:
        raise UserError(f"there is no object to evaluate: {asked.rows.stage} holds none; run it on more objects")
    return "training", by_split["train"]


def _listing(rows: Output) -> Iterator[_Listed]:
    """Every object once; of one in several files the first part."""
    seen: set[str] = set()
    for shard in (rows.manifest() or {})["shards"]:
        address = rows.store.address(shard["path"])
        with fsspec.open(address, "rb") as file:
            table = pq.read_table(file, columns=["uid", "sha256"])
        names = zip(table["uid"].to_pylist(), table["sha256"].to_pylist(), strict=True)
        for (uid, sha256), _ in itertools.groupby(names):
            if uid not in seen:
                seen.add(uid)
                yield _Listed(uid, sha256, address, shard["sha256"])


def _spread(listed: Sequence[_Listed], count: int) -> list[_Listed]:
    count = min(count, len(listed))
    return [listed[i * len(listed) // count] for i in range(count)]


def _item(asked: Asked, part: Part, entry: _Listed, seed: int) -> Item:
    return {
        "uid": f"{entry.uid}.{asked.what}",
        "object": entry.uid,
        "sha256": entry.sha256,
        "what": asked.what,
        "part": part,
        "rows": entry.digest,
        "seed": seed,
        "_file": entry.file,
    }


def _described(
    asked: Asked, part: Part, listed: Sequence[_Listed], downloads: Output | None, count: int, seed: int
) -> Iterator[Item]:
    assert downloads is not None
    pool = _spread(listed, _SPARE * count)
    rows = rows_of(downloads, {entry.uid for entry in pool})
    about = {row["uid"]: row for row in rows if any(c and c.strip() for c in row["captions"] or ())}
    known = [entry for entry in pool if entry.uid in about]
    if not known:
        raise UserError(
            f"no {part} object has a caption, without which {_PURPOSE[asked.what]}: give captions to download "
            f"(download.captions.path), or set evaluate.{asked.what}=false"
        )
    for entry in _spread(known, count):
        row = about[entry.uid]
        captions = [c for c in row["captions"] if c and c.strip()]
        names = {"name": row["name"] or "", "category": row["category"] or ""}
        yield {**_item(asked, part, entry, seed), "captions": captions, **names}


_PURPOSE = {"text": "there is no text to generate from", "captions": "there is nothing to compare captions with"}
