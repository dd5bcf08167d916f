"""Requests to an ASGI application without a network: parts of a body as they come, clients that stall or leave."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

HOST = "127.0.0.1:8000"


@dataclass
class Answer:
    """What a client has got so far."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        """Of an error."""
        return str(self.json()["error"]["kind"])

    def events(self) -> list[tuple[str, Any]]:
        """Server-sent events."""
        found = []
        for block in self.body.decode().split("\n\n")[:-1]:
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        return found


async def send(
    app: Any,
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    body: Sequence[bytes] | AsyncIterator[bytes] = (),
    left: asyncio.Event | None = None,
) -> Answer:
    """One request; set `left` for a client that goes."""
    answer, left = Answer(), left or asyncio.Event()
    path, _, query = path.partition("?")
    parts = body if isinstance(body, AsyncIterator) else _parts(body)
    given = {"host": HOST, **(headers or {})}

    async def receive() -> dict[str, Any]:
        if left.is_set():
            return {"type": "http.disconnect"}
        try:
            return {"type": "http.request", "body": await anext(parts), "more_body": True}
        except StopAsyncIteration:
            if not answer.complete and not receive.ended:  # type: ignore[attr-defined]
                receive.ended = True  # type: ignore[attr-defined]
                return {"type": "http.request", "body": b"", "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    receive.ended = False  # type: ignore[attr-defined]

    async def taken(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            answer.body += message.get("body", b"")
            answer.complete = not message.get("more_body", False)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(k.lower().encode(), v.encode()) for k, v in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    await app(scope, receive, taken)
    return answer


async def _parts(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def form(**fields: str | tuple[str, bytes]) -> tuple[dict[str, str], list[bytes]]:
    """Headers and body of a form; a pair is a file's name and content."""
    boundary, out = uuid.uuid4().hex, b""
    for name, value in fields.items():
        filename, data = value if isinstance(value, tuple) else ("", value.encode())
        extra = f'; filename="{filename}"' if isinstance(value, tuple) else ""
        out += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + data + b"\r\n"
    out += f"--{boundary}--\r\n".encode()
    return {"content-type": f"multipart/form-data; boundary={boundary}", "content-length": str(len(out))}, [out]


async def post(app: Any, path: str, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
    """A form, posted."""
    given, body = form(**fields)
    return await send(app, "POST", path, {**given, **(headers or {})}, body)
