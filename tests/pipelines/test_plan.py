"""Planning: keys, coverage, shards; fingerprints of configurations."""

from dataclasses import dataclass, field

import pytest

from pipelines.runtime.fingerprint import fingerprint, identity
from pipelines.runtime.output import ShardRecord
from pipelines.runtime.plan import Coverage, Listing, shards
from sar3d.errors import UserError


def listing(n: int, **more: object) -> list[dict[str, object]]:
    return [{"uid": f"{i:04d}", "size": i, **more} for i in range(n)]


def record(keys: list[str]) -> ShardRecord:
    return ShardRecord("part", "", len(keys), 0, "", "".join(keys))


def test_every_item_lands_in_exactly_one_shard_in_order() -> None:
    listed = Listing(listing(23))
    made = list(shards(listed, Coverage(listed).mask, 5, "part"))
    assert [len(s.items) for s in made] == [5, 5, 5, 5, 3]
    assert [i["uid"] for s in made for i in s.items] == [f"{i:04d}" for i in range(23)]
    assert len({k for s in made for k in s.keys}) == 23


def test_hidden_fields_travel_but_do_not_change_the_key() -> None:
    first, second = Listing(listing(3, _path="a")), Listing(listing(3, _path="b"))
    assert first.digest == second.digest
    assert next(iter(second.items()))["_path"] == "b"
    assert Listing(listing(3, path="a")).digest != Listing(listing(3, path="b")).digest


def test_a_uid_twice_is_one_sentence() -> None:
    with pytest.raises(UserError, match="'0001' stands twice"):
        Listing([{"uid": "0000"}, {"uid": "0001"}, {"uid": "0001"}])
    with pytest.raises(UserError, match="'0001' stands twice"):
        Listing([{"uid": "0001"}, {"uid": "0000"}, {"uid": "0001", "other": 1}])
    assert len(Listing([{"uid": "0001"}, {"uid": "0000"}])) == 2


def test_coverage_takes_whole_shards_once() -> None:
    listed = Listing(listing(10))
    keys = [k.tobytes().hex() for k in listed.keys]
    coverage = Coverage(listed)
    assert coverage.take(record(keys[2:5]))
    assert not coverage.take(record(keys[4:6])), "an item cannot come from two shards"
    assert not coverage.take(record([*keys[6:8], "ff" * 16])), "an item that is no longer listed"
    assert [i["uid"] for s in shards(listed, coverage.mask, 99, "p") for i in s.items] == [
        f"{i:04d}" for i in (0, 1, 5, 6, 7, 8, 9)
    ]


@dataclass(frozen=True)
class Inner:
    names: tuple[str, ...] = ("a",)
    workers: int = field(default=1, metadata={"identity": False})
    folder: str = field(default="x", metadata={"identity": "listing"})


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    rate: float = 0.5


def test_identity_leaves_out_what_does_not_matter() -> None:
    assert identity(Outer()) == {"inner": {"names": ["a"]}, "rate": 0.5}
    assert identity(Outer(), listing=True) == {"inner": {"names": ["a"], "folder": "x"}, "rate": 0.5}
    assert fingerprint(identity(Outer(Inner(workers=9)))) == fingerprint(identity(Outer()))
    assert fingerprint(identity(Outer(rate=0.25))) != fingerprint(identity(Outer()))


@pytest.mark.parametrize("value", [object(), float("nan"), {1: 2}, print])
def test_what_has_no_stable_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no stable fingerprint"):
        identity({"x": value})
