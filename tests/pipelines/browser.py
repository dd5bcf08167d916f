"""A real headless Chromium, spoken to in its DevTools protocol: nothing but the browser has to be installed."""

import asyncio
import base64
import io
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image

T = TypeVar("T")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--headless=new", "--no-sandbox", "--no-first-run", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


def browser() -> str:
    """The program in SAR3D_BROWSER or on the PATH; skips the test where there is none."""
    named = os.environ.get("SAR3D_BROWSER")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no browser: install chromium, or set SAR3D_BROWSER to one")
    return found


class Page:
    """One tab. Every request, console message and uncaught error since it was opened is kept."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.requests: list[str] = []
        self.errors: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=60)
            if message.get("id") == self._number:
                return message["result"]
            self._keep(message)

    def _keep(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message["method"] == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif message["method"] == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif message["method"] == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])

    async def open(self, where: Path | str, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        await self.look(dark)
        await self.call("Page.navigate", url=where if isinstance(where, str) else where.as_uri())
        await self.until("document.readyState === 'complete'")

    async def look(self, dark: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def evaluate(self, expression: str) -> Any:
        made = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in made, made
        return made["result"].get("value")

    async def until(self, expression: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not await self.evaluate(expression):
            assert time.monotonic() < end, f"never came true: {expression}"
            await asyncio.sleep(0.2)

    async def shot(self, file: Path) -> None:
        """Save what the window shows."""
        made = await self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(made["data"]))

    async def picture(self, selector: str) -> NDArray[np.uint8]:
        """What the first element of a selector looks like, as (H, W, 3)."""
        box = await self.evaluate(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{behavior: 'instant', "
            "block: 'center'}); const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; })()"
        )
        await asyncio.sleep(0.3)
        shot = await self.call("Page.captureScreenshot", format="png")
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))
        x, y, width, height = (round(v) for v in box)
        return image[y : y + height, x : x + width]


def visit(program: str, steps: Callable[[Page], Awaitable[T]]) -> T:
    """Start a browser, take the steps in one of its tabs, end it."""
    with _running(program) as port:
        return asyncio.run(_in_a_tab(port, steps))


@contextmanager
def _running(program: str) -> Iterator[int]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [program, *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield _port(Path(folder, "DevToolsActivePort"), process)
        finally:
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            for child in [process, *children]:
                child.kill()
            process.wait()


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + 60
    while not file.exists() or "\n" not in file.read_text():
        assert process.poll() is None, "the browser ended at once"
        assert time.monotonic() < end, "the browser did not start"
        time.sleep(0.1)
    return int(file.read_text().split()[0])


async def _in_a_tab(port: int, steps: Callable[[Page], Awaitable[T]]) -> T:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            tab = next(t for t in await answer.json() if t["type"] == "page")
        async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            return await steps(Page(socket))
