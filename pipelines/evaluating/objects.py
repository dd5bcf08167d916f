"""Which objects a pipeline's models are judged by: those that training held out, or else the ones it was given."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import fsspec
import pyarrow.parquet as pq

from pipelines.evaluating.rows import Part, What
from pipelines.runtime.output import Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import rows_of
from pipelines.runtime.stage import Log
from sar3d.data.formats.views import split_of
from sar3d.data.loading.withheld import Withheld
from sar3d.errors import UserError
from sar3d.spacing import evenly_spaced

Split = Literal["auto", "val", "test", "training"]
Shares = tuple[float, float]
"""Of the objects that validate, and that test."""
_SPARE = 16
"""Objects that are looked up for each one that is wanted, as some have no caption."""


@dataclass(frozen=True)
class EvaluationSource:
    """What one part of the evaluation judges by."""

    what: What
    rows: Output
    """The dataset that lists the objects: rows of an object lie together."""
    shares: Shares
    """As the model's training held objects out."""
    described: bool
    """Whether only objects with a caption will do."""
    withheld: Withheld | None = None
    """Objects that are held out of every training whatever their content."""
    unseen_by: tuple[Shares, ...] = ()
    """Further trainings that must have held the objects out; then no training objects will do in their stead."""


@dataclass(frozen=True)
class _Listed:
    uid: str
    sha256: str
    file: str
    digest: str


def evaluation_items(
    sources: Sequence[EvaluationSource], downloads: Output | None, split: Split, count: int, seed: int, log: Log
) -> Iterator[Item]:
    """At most `count` objects for each thing that is judged, spread evenly over those that will do.

    Raises:
        UserError: there is no object of the split, or none of them has a caption where captions are needed.
    """
    for one in sources:
        part, listed = _part(one, split)
        log(f"evaluate: {one.what} is judged by {part} objects, {len(listed):,} in all")
        if one.described:
            yield from _described(one, part, listed, downloads, count, seed)
        else:
            yield from (_item(one, part, entry, seed) for entry in evenly_spaced(listed, count))


def _part(sources: EvaluationSource, split: Split) -> tuple[Part, list[_Listed]]:
    val, test = sources.shares
    by_split: dict[str, list[_Listed]] = {"train": [], "val": [], "test": [], "held_out": []}
    listed = list(_listing(sources.rows))
    apart = [False] * len(listed)
    if sources.withheld is not None:
        apart = sources.withheld.contains([entry.uid for entry in listed]).tolist()
    for entry, withheld in zip(listed, apart, strict=True):
        by_split["held_out" if withheld else split_of(entry.sha256, val, test)].append(entry)
    if split in ("val", "test"):
        if not by_split[split]:
            share = val if split == "val" else test
            raise UserError(
                f"evaluate.split={split} holds no object of {sources.rows.stage} (a share of {share:g}): set "
                "evaluate.split=auto, or hold more objects out of training"
            )
        return "heldout", by_split[split]
    held_out = sorted(by_split["val"] + by_split["test"] + by_split["held_out"], key=lambda entry: entry.uid)
    if sources.unseen_by:
        return "heldout", _unseen(sources, held_out, {entry.uid for entry in by_split["held_out"]})
    if split == "auto" and held_out:
        return "heldout", held_out
    if not by_split["train"]:
        raise UserError(f"there is no object to evaluate: {sources.rows.stage} holds none; run it on more objects")
    return "training", by_split["train"]


def _unseen(sources: EvaluationSource, held_out: Sequence[_Listed], withheld: set[str]) -> list[_Listed]:
    """Those that every training held out."""

    def unseen(entry: _Listed) -> bool:
        return all(split_of(entry.sha256, *shares) != "train" for shares in sources.unseen_by)

    found = [entry for entry in held_out if entry.uid in withheld or unseen(entry)]
    if not found:
        raise UserError(
            f"evaluate.protocol=heldout finds no object of {sources.rows.stage} that every training held out: hold a share "
            "of them out of the trainings of the tokenizer and of the generators (data.val, data.test)"
        )
    return found


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


def _item(sources: EvaluationSource, part: Part, entry: _Listed, seed: int) -> Item:
    return {
        "uid": f"{entry.uid}.{sources.what}",
        "object": entry.uid,
        "sha256": entry.sha256,
        "what": sources.what,
        "part": part,
        "rows": entry.digest,
        "seed": seed,
        "_file": entry.file,
    }


def _described(
    sources: EvaluationSource, part: Part, listed: Sequence[_Listed], downloads: Output | None, count: int, seed: int
) -> Iterator[Item]:
    assert downloads is not None
    pool = evenly_spaced(listed, _SPARE * count)
    rows = rows_of(downloads, {entry.uid for entry in pool})
    about = {row["uid"]: row for row in rows if any(c and c.strip() for c in row["captions"] or ())}
    known = [entry for entry in pool if entry.uid in about]
    if not known:
        raise UserError(
            f"no {part} object has a caption, without which {_PURPOSE[sources.what]}: give captions to download "
            f"(download.captions.path), or set evaluate.{sources.what}=false"
        )
    for entry in evenly_spaced(known, count):
        row = about[entry.uid]
        captions = [c for c in row["captions"] if c and c.strip()]
        names = {"name": row["name"] or "", "category": row["category"] or ""}
        yield {**_item(sources, part, entry, seed), "captions": captions, **names}


_PURPOSE = {"text": "there is no text to generate from", "captions": "there is nothing to compare captions with"}
