"""Which objects go into which shard, decided once per output, in two streaming passes over the listing.

The first pass takes each item's key (sixteen bytes of BLAKE2 over its canonical JSON) and spools the items to a
temporary file; the second cuts what no committed shard covers into new shards. Memory is 16 bytes an item and a shard.
Fields whose name begins with `_` travel with an item but are not part of its key (where a file lies, say).
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.runtime.output import KEY_DIGITS, Output, ShardRecord
from sar3d.errors import UserError

Item = dict[str, Any]
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _hash(uid: str) -> int:
    return int.from_bytes(hashlib.blake2b(uid.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Shard:
    """A unit of work: one task, one file."""

    name: str
    items: list[Item]
    keys: list[str]


class Listing:
    """The listing of a stage's items: their number, their keys, a digest of all of them, the items themselves."""

    def __init__(self, items: Iterable[Item]) -> None:
        digest = hashlib.sha256()
        keys = bytearray()
        self._spool: IO[bytes] = tempfile.TemporaryFile(buffering=1 << 20)  # noqa: SIM115 - closed by close()
        last, ascending = "", True
        for item in items:
            ascending &= item["uid"] > last
            last = item["uid"]
            text = _encode(item).encode()
            self._spool.write(text + b"\n")
            if any(name.startswith("_") for name in item):
                text = _encode({k: v for k, v in item.items() if not k.startswith("_")}).encode()
            key = hashlib.blake2b(text, digest_size=16).digest()
            digest.update(key)
            keys += key
        self.keys: NDArray[np.void] = np.frombuffer(bytes(keys), dtype="V16")
        self.digest = digest.hexdigest()
        if not ascending:  # the usual order proves that no uid stands twice; another one (a grown output's) does not
            self._refuse_repeated()

    def _refuse_repeated(self) -> None:
        hashes = np.fromiter((_hash(item["uid"]) for item in self.items()), np.uint64, len(self))
        values, counts = np.unique(hashes, return_counts=True)
        repeated = set(values[counts > 1].tolist())
        if repeated:
            uid = next(item["uid"] for item in self.items() if _hash(item["uid"]) in repeated)
            self.close()
            raise UserError(f"the uid {uid!r} stands twice in the listing; give each object its own")

    def __len__(self) -> int:
        return len(self.keys)

    def items(self) -> Iterator[Item]:
        self._spool.seek(0)
        return (json.loads(line) for line in self._spool)

    def close(self) -> None:
        self._spool.close()


class Coverage:
    """Which items of a listing are in shards that exist already."""

    def __init__(self, listing: Listing) -> None:
        # Two 64-bit halves: void arrays neither sort nor search.
        halves = np.frombuffer(listing.keys.tobytes(), dtype=">u8").reshape(-1, 2).astype(np.uint64)
        self._order = np.lexsort((halves[:, 1], halves[:, 0]))
        self._high, self._low = halves[self._order, 0], halves[self._order, 1]
        self.mask = np.zeros(len(listing), dtype=bool)

    def take(self, record: ShardRecord) -> bool:
        """Count a shard's items as covered, if all are listed and none is covered yet; says whether they were."""
        at = self._find(record.keys)
        if at is None or len(at) == 0 or self.mask[at].any():
            return False
        self.mask[at] = True
        return True

    def _find(self, keys: str) -> NDArray[np.intp] | None:
        halves = np.frombuffer(bytes.fromhex(keys), dtype=">u8").reshape(-1, 2).astype(np.uint64)
        first = np.searchsorted(self._high, halves[:, 0])
        places = []
        for high, low, i in zip(halves[:, 0], halves[:, 1], first, strict=True):
            while i < len(self._high) and self._high[i] == high and self._low[i] != low:
                i += 1
            if i == len(self._high) or self._high[i] != high:
                return None
            places.append(self._order[i])
        return np.array(places, dtype=np.intp)


def reusable(coverage: Coverage, earlier: Output, again: bool) -> Iterator[ShardRecord]:
    """Shards of an earlier output that this listing can refer to; marks them in `coverage`.

    With `again` the objects that failed there are left out of the record, and so are tried once more.
    """
    for record in earlier.records().values():
        if again and record.failures:
            failed = {f.key for f in record.failures}
            keys = (record.keys[i : i + KEY_DIGITS] for i in range(0, len(record.keys), KEY_DIGITS))
            record = replace(record, keys="".join(k for k in keys if k not in failed), failures=[])
        if coverage.take(record):
            yield record


def shards(listing: Listing, covered: NDArray[np.bool_], size: int, prefix: str) -> Iterator[Shard]:
    """Cut the uncovered items, in the order of the listing, into shards of `size`."""
    items: list[Item] = []
    keys: list[str] = []
    index = 0
    for i, item in enumerate(listing.items()):
        if covered[i]:
            continue
        items.append(item)
        keys.append(listing.keys[i].tobytes().hex())
        if len(items) == size:
            yield Shard(f"{prefix}-{index:05d}", items, keys)
            items, keys, index = [], [], index + 1
    if items:
        yield Shard(f"{prefix}-{index:05d}", items, keys)
