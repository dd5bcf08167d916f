"""Which cluster a run uses, and what it says while it joins, waits, or loses one."""

import socket
import time

import pytest

from pipelines.runtime import joining
from pipelines.runtime.cluster import ClusterConfig, RoomMonitor, address_of
from pipelines.runtime.presence import ClusterLostError, Presence, watched
from sar3d.errors import UserError


def listener() -> socket.socket:
    made = socket.create_server(("127.0.0.1", 0))
    made.settimeout(5)
    return made


def test_auto_is_the_cluster_that_was_named_and_else_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert address_of(ClusterConfig()) is None
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert address_of(ClusterConfig()) is None, "Ray would look for any Ray on the machine"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    assert address_of(ClusterConfig()) == "10.0.0.5:6379"
    assert address_of(ClusterConfig(address="local")) is None
    assert address_of(ClusterConfig(address="ray://head:10001")) == "ray://head:10001"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:8265", "is the address for `ray job submit`"),
        ("head", "is no address of a Ray cluster"),
        ("head:100000", "is no address of a Ray cluster"),
    ],
)
def test_an_address_of_another_kind_is_one_sentence(address: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        joining.join(address, None)


def test_nobody_at_the_address_is_said_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "ANSWER_SECONDS", 0.0)
    with listener() as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(UserError, match=f"no Ray cluster answers at {address} .*refused"):
        joining.join(address, None)


def test_a_node_that_goes_interrupts_the_work() -> None:
    with listener() as head, listener() as node:
        presence = Presence("the Ray cluster at head:6379", head.getsockname(), node.getsockname())
        node.close()
        started = time.monotonic()
        with (
            pytest.raises(ClusterLostError, match="at head:6379 has gone; what was committed stays"),
            watched(presence),
        ):
            time.sleep(20)
        assert time.monotonic() - started < 10


def test_what_ray_raises_when_its_node_has_gone_is_the_same_sentence() -> None:
    with listener() as head, listener() as node:
        presence = Presence("the Ray cluster at head:6379", head.getsockname(), node.getsockname())
        node.close()
        with pytest.raises(ClusterLostError), watched(presence):
            raise RuntimeError("the actor died")


def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with listener() as head, listener() as node:
        presence = Presence("the Ray cluster at head:6379", head.getsockname(), node.getsockname())
        monkeypatch.setattr(Presence, "GRACE", 0.0)
        with pytest.raises(KeyError), watched(presence):
            raise KeyError("a bug")


class FakeRay:
    def __init__(self, free: float) -> None:
        self.free = free

    def available_resources(self) -> dict[str, float]:
        return {"CPU": self.free}

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0}


def test_a_run_behind_others_says_what_it_waits_for_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(RoomMonitor, "EVERY", 0.0)
    monkeypatch.setattr(RoomMonitor, "SETTLE", 0.0)
    joined = ClusterConfig(address="10.0.0.5:6379")
    room = RoomMonitor(FakeRay(0), "render", (2, 0), joined, said.append)
    room.look()
    assert said[0] == (
        "render: waiting for 2 CPUs (0 of 4 free) of the cluster, which other work holds; it begins when there is room"
    )
    assert said[1].endswith("which other work holds; 0 s so far")
    room.over()
    room.look()
    RoomMonitor(FakeRay(4), "render", (2, 0), joined, said.append).look()
    RoomMonitor(FakeRay(0), "render", (2, 0), ClusterConfig(address="local"), said.append).look()
    assert len(said) == 2
