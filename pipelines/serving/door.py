"""What every request passes before the application sees it: who asks, under which name, how much, and for how long.

Plain ASGI, since each of these must hold while a body is still arriving and while an answer is still being sent.
"""

import asyncio
import hmac
import json
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from urllib.parse import urlsplit

from pipelines.serving.problems import ServiceError, busy

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

UPLOAD_VARIABLE = "SAR3D_UPLOAD_BYTES"
"""Environment variable by which Serve's proxies know how much a body may hold."""

_OPEN = re.compile(r"/|/viewer.js|/healthz|/readyz|/docs|/openapi.json|/static-offline-docs/.*")
"""What may be read without a token: the page, which asks for it, the documentation, and what load balancers look at."""

_SLACK = 64 << 10
"""Bytes of a body beyond its file: fields and boundaries."""


class Places:
    """How many requests are in the service. `take` raises `ServiceError` 503 when all places are taken."""

    def __init__(self, limit: int) -> None:
        self.limit, self.taken = limit, 0

    def __enter__(self) -> "Places":
        if self.taken >= self.limit:
            raise busy(f"{self.limit} requests are in the service already: try again in a moment")
        self.taken += 1
        return self

    def __exit__(self, *error: object) -> None:
        self.taken -= 1


class BodyLimit:
    """Refuses bodies of more than `most` bytes: those that announce it before anything is read, others as soon as it
    shows. The application's own answer, if it has begun, is cut off.
    """

    def __init__(self, app: App, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = header(scope, "content-length")
        if announced and (not announced.isdigit() or int(announced) > self.most):
            await answer(send, self._problem())
            return
        seen, overflow, begun = 0, asyncio.Event(), False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.most:
                overflow.set()
                await asyncio.Future()  # what has been read is not handed on; the task is cancelled
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        await first_of(self.app(scope, counted, noted), overflow.wait())
        if overflow.is_set() and not begun:
            await answer(send, self._problem())

    def _problem(self) -> ServiceError:
        return ServiceError(413, "too_large", f"the request is larger than {self.most >> 20} MiB: send a smaller file")


class Door:
    """The way into the service.

    Args:
        hosts: names that the service answers to, without ports; `*` for any.
        token: what a request must carry; empty for none.
        places: of requests that compute, those to `/v1/`.
        seconds: time limit.
    """

    def __init__(self, app: App, hosts: tuple[str, ...], token: str, places: Places, seconds: float) -> None:
        self.app, self.hosts, self.token, self.places, self.seconds = app, hosts, token, places, seconds

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope)
            with self._place(scope):
                await self._within_time(scope, receive, send)
        except ServiceError as problem:
            await answer(send, problem)

    def _check(self, scope: Message) -> None:
        host = _name(header(scope, "host"))
        if "*" not in self.hosts and host not in self.hosts:
            raise ServiceError(403, "wrong_host", "the service does not answer to this name: start it with --host-name")
        origin = header(scope, "origin")
        if origin and urlsplit(origin).netloc != header(scope, "host"):
            raise ServiceError(403, "wrong_origin", "pages of other sites may not use this service")
        if self.token and not _OPEN.fullmatch(scope["path"]):
            given = header(scope, "authorization").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                raise ServiceError(401, "wrong_token", "show the service's token: Authorization: Bearer TOKEN")

    def _place(self, scope: Message) -> AbstractContextManager[object]:
        computes = scope["method"] == "POST" and scope["path"].startswith("/v1/")
        return self.places if computes else nullcontext()

    async def _within_time(self, scope: Message, receive: Receive, send: Send) -> None:
        """Run the application until it has answered, its client has gone, or its time is over."""
        complete, gone, begun = asyncio.Event(), asyncio.Event(), False

        async def body() -> Message:
            """What the application reads; once the body is complete, only the end of the connection."""
            if complete.is_set():
                await gone.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.disconnect":
                gone.set()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                complete.set()
            return message

        async def departure() -> None:
            """Return when the client has gone."""
            await complete.wait()
            while not gone.is_set() and (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(self.seconds):
                await first_of(self.app(scope, body, noted), departure())
        except TimeoutError:
            if begun:
                return
            if complete.is_set():
                raise ServiceError(
                    504, "timeout", f"there was no answer within {self.seconds:g} s: try again"
                ) from None
            raise ServiceError(408, "slow_upload", f"the request did not arrive within {self.seconds:g} s") from None


async def first_of(work: Awaitable[None], other: Awaitable[Any]) -> None:
    """Return when either is done, and cancel the other one; errors of `work` are raised."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(other)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(done[0], Exception):
        raise done[0]


async def answer(send: Send, problem: ServiceError) -> None:
    """Send a problem as the whole answer; the connection is of no use after a body that was not read."""
    body = json.dumps(problem.body()).encode()
    headers = {**problem.headers(), "content-type": "application/json", "content-length": str(len(body))}
    headers["connection"] = "close"
    packed = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": packed})
    await send({"type": "http.response.body", "body": body})


def header(scope: Message, name: str) -> str:
    """The last header of a name; empty where there is none."""
    found = [value for key, value in scope["headers"] if key == name.encode()]
    return str(found[-1].decode("latin-1")) if found else ""


def _name(host: str) -> str:
    """A host without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def proxy_middlewares() -> list[Any]:
    """What Serve's proxies wrap around themselves, by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH: they would otherwise hold
    all of a body in memory before a replica may refuse it.
    """
    from starlette.middleware import Middleware

    return [Middleware(BodyLimit, most=int(os.environ.get(UPLOAD_VARIABLE, str(64 << 20))) + _SLACK)]
