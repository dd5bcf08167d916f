"""A local HTTP server that behaves like the Hugging Face hub: a redirect with the linked checksum, then a CDN."""

import gzip
import hashlib
import json
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RESOLVE = "/datasets/allenai/objaverse/resolve/main/"
CDN = "/cdn/"


@dataclass(frozen=True)
class Fault:
    """How one request for a file goes wrong. What is not set stays as it should be."""

    status: int | None = None
    """Answer the first request with this status and nothing else."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to the answer, or put in place of its own."""
    body: bytes | None = None
    """Send this body instead, with no linked checksum."""
    cut: int | None = None
    """Send so many bytes of the body, then close the connection."""
    stall_s: float = 0.0
    """Wait so long before closing."""
    drip_s: float = 0.0
    """Wait so long after every 16 bytes."""
    corrupt: bool = False
    """Flip the last byte of what is sent."""
    deaf: bool = False
    """Answer a range request with the range, whatever its If-Range says."""
    then: Callable[[], None] | None = None
    """Called once the answer is sent."""


class Hub(ThreadingHTTPServer):
    """Serves `files` (path below the data set to bytes), noting every request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, redirect: bool = True, etags: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.redirect = redirect
        self.etags = etags
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.log: list[tuple[str, str | None]] = []
        self.bytes_sent = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{RESOLVE.rstrip('/')}"

    def requests(self, path: str = "") -> list[str | None]:
        """The `Range` header (or None) of each request for bodies of files whose path begins with `path`."""
        return [wanted for name, wanted in self.log if name.startswith(path)]

    def next_fault(self, path: str) -> Fault:
        with self.lock:
            if path in self.always:
                return self.always[path]
            return self.faults[path].pop(0) if self.faults[path] else Fault()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        linked = self.path.startswith(RESOLVE)
        path = self.path.removeprefix(RESOLVE).removeprefix(CDN).partition("?")[0]
        fault = self.server.next_fault(path) if linked else self.server.always.get(f"cdn:{path}", Fault())
        if linked and fault.status is not None:
            self.server.log.append((path, self.headers.get("Range")))
            return self._answer(fault.status, dict(fault.headers), b"")
        if path not in self.server.files:
            self.server.log.append((path, self.headers.get("Range")))
            return self._answer(404, {}, b"Entry not found")
        data = self.server.files[path] if fault.body is None else fault.body
        if linked and self.server.redirect and fault == Fault():
            return self._answer(302, self._linked(data) | {"Location": CDN + path}, b"")
        if linked and self.server.redirect:
            # The fault belongs to the CDN's answer: hand it on, out of sight of other requests.
            self.server.always[f"cdn:{path}"] = fault
            headers = {} if fault.body is not None else self._linked(data)
            return self._answer(302, headers | {"Location": CDN + path}, b"")
        self.server.always.pop(f"cdn:{path}", None)
        self.server.log.append((path, self.headers.get("Range")))
        self._body(data, fault, {} if self.server.redirect or fault.body is not None else self._own(data))

    def _linked(self, data: bytes) -> dict[str, str]:
        return {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}

    def _own(self, data: bytes) -> dict[str, str]:
        return {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'} if self.server.etags else {}

    def _body(self, data: bytes, fault: Fault, headers: dict[str, str]) -> None:
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        if self.server.etags and "ETag" not in headers and fault.body is None:
            headers["ETag"] = etag
        headers |= fault.headers
        status, start = 200, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and (fault.deaf or self.headers.get("If-Range") in (None, headers.get("ETag"))):
            status, start = 206, int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        part = data[start:]
        if fault.corrupt:
            part = part[:-1] + bytes([part[-1] ^ 1])
        self._answer(status, headers, part, fault)

    def _answer(self, status: int, headers: dict[str, str], body: bytes, fault: Fault | None = None) -> None:
        fault = fault or Fault()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        sent = body if fault.cut is None else body[: fault.cut]
        if fault.drip_s:
            for at in range(0, len(sent), 16):
                self.wfile.write(sent[at : at + 16])
                time.sleep(fault.drip_s)
        else:
            self.wfile.write(sent)
        with self.server.lock:
            self.server.bytes_sent += len(sent)
        if fault.then:
            fault.then()
        if fault.stall_s:
            time.sleep(fault.stall_s)
        if fault.cut is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serve(redirect: bool = True, etags: bool = True) -> Iterator[Hub]:
    """A running hub. Without `redirect` it serves bodies itself, as a plain mirror does; without `etags`, untagged."""
    hub = Hub(redirect, etags)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


def fill_objaverse(
    hub: Hub, objects: Mapping[str, bytes], annotations: Mapping[str, dict[str, Any]], lvis: Mapping[str, list[str]]
) -> None:
    """Lay out objects (uid to GLB) as Objaverse does, three metadata folders in turn. Objects may be added later."""
    paths = {uid: f"glbs/000-{i % 3:03d}/{uid}.glb" for i, uid in enumerate(objects)}
    metadata: dict[str, dict[str, Any]] = defaultdict(dict)
    for uid, path in paths.items():
        hub.files[path] = objects[uid]
        metadata[path.split("/")[1]][uid] = {"uid": uid, **annotations.get(uid, {})}
    hub.files["object-paths.json.gz"] = _packed(paths)
    hub.files["lvis-annotations.json.gz"] = _packed(dict(lvis))
    for name, entries in metadata.items():
        hub.files[f"metadata/{name}.json.gz"] = _packed(entries)


def _packed(value: Any) -> bytes:
    return gzip.compress(json.dumps(value).encode())


def glb(size: int = 1000, seed: int = 0) -> bytes:
    """Bytes with a truthful GLB header (magic, version 2, length) and noise behind it."""
    noise = b"".join(hashlib.sha256(f"{seed}:{i}".encode()).digest() for i in range(size // 32 + 1))
    return b"glTF" + (2).to_bytes(4, "little") + size.to_bytes(4, "little") + noise[: size - 12]
