"""The drawing process: killed as it starts, or while it draws, it is replaced; the object is not lost."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.render import RenderConfig, request_of
from pipelines.runtime import drawing
from sar3d.errors import ObjectError
from sar3d.isolation import LimitedProcess
from sar3d.procedural import build_glb, catalog


@pytest.fixture
def request_(tmp_path: Path) -> dict[str, object]:
    made = catalog(1)[0]
    path = tmp_path / "a.glb"
    path.write_bytes(build_glb(made.uid))
    config = RenderConfig(views=30, resolution=192, backend="raycast")
    return request_of(config, {"uid": made.uid, "sha256": "0" * 64}, path, tmp_path)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    drawing._process = None
    yield
    if drawing._process is not None:
        drawing._process.close()
        drawing._process = None


def kill_drawing(
    times: int, after: float, stop: threading.Event, among: Callable[[], Iterable[int]] | None = None
) -> threading.Thread:
    """Kill the next `times` drawing processes of ours, or of those `among`, `after` seconds after each has appeared."""

    def run() -> None:
        seen: set[int] = set()
        while len(seen) < times and not stop.wait(0.002):
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error):  # one of another test that has ended by itself
                    if among is not None and child.pid not in among():
                        continue
                    if child.pid not in seen and "sar3d.isolation" in " ".join(child.cmdline()):
                        time.sleep(after)
                        seen.add(child.pid)
                        child.kill()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("after", [0.0, 0.4])
def test_a_killed_process_is_replaced(request_: dict[str, object], after: float) -> None:
    stop = threading.Event()
    thread = kill_drawing(2, after, stop)
    try:
        with drawing.drawer(60, 4 << 30, 100, 0) as draw:
            rows = draw(request_)
    finally:
        stop.set()
        thread.join()
    assert len(rows) == 3
    assert rows[0]["rgb"][0].startswith(b"\x89PNG")


def test_an_object_that_always_kills_its_process_is_given_up(
    request_: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process that dies while it starts, as on a busy machine, has not been killed by an object.
    started: set[int] = set()
    await_ready = LimitedProcess._await_ready

    def ready(process: LimitedProcess, child: Any) -> None:
        await_ready(process, child)
        started.add(child.process.pid)

    monkeypatch.setattr(LimitedProcess, "_await_ready", ready)
    stop = threading.Event()
    thread = kill_drawing(99, 0.05, stop, lambda: started)
    try:
        with drawing.drawer(60, 4 << 30, 100, 0) as draw, pytest.raises(ObjectError) as caught:
            draw({**request_, "resolution": 1024})
    finally:
        stop.set()
        thread.join()
    assert caught.value.kind == "crashed"
    assert caught.value.attempts == drawing.ATTEMPTS
