"""What a server promises about a body (size, checksums), and whether the bytes on disk keep it."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

_HEX64 = re.compile(r"[0-9a-f]{64}")
_NAMES = {"md5": "md5", "sha-256": "sha256", "sha-512": "sha512"}
_BLOCK = 1 << 20


class Answer(Protocol):
    """The part of an HTTP response that is read here."""

    status_code: int

    @property
    def headers(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class Promise:
    """A body as its server describes it."""

    etag: str | None = None
    """The entity tag, only if strong: only such a tag says that two bodies are equal byte for byte."""
    size: int | None = None
    """Bytes of the whole body, if told."""
    digests: Mapping[str, bytes] = field(default_factory=dict)
    """hashlib's name of the algorithm to the digest of the whole body."""


def digest_file(path: Path, algorithms: Iterable[str] = ("sha256",)) -> dict[str, bytes]:
    """The digests of a file's bytes, all in one reading."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            for h in hashes.values():
                h.update(block)
    return {name: h.digest() for name, h in hashes.items()}


def promise_of(answers: Sequence[Answer]) -> Promise:
    """Read the headers of a chain of redirects, the body's own answer last.

    A Hugging Face hub puts the size and SHA-256 of a large file on its redirect (`X-Linked-Size`, `X-Linked-Etag`)
    or, where it serves the body itself, into `ETag`. The entity tag of the store behind a redirect is left alone: it
    may be 64 hex digits of another hash. `Content-MD5` describes a body in one piece, `Digest` (RFC 3230) and
    `Repr-Digest` (RFC 9530) the whole file.
    """
    first, last = answers[0], answers[-1]
    linked = [a.headers["X-Linked-Etag"] for a in answers if "X-Linked-Etag" in a.headers]
    sizes = [int(s) for a in answers if (s := a.headers.get("X-Linked-Size", "")).isdigit()]
    digests = _declared(last.headers.get("Digest", "") + "," + last.headers.get("Repr-Digest", ""))
    if last.status_code == 200:
        digests |= _decoded("md5", last.headers.get("Content-MD5", ""))
    for tag in linked or [first.headers.get("ETag", "")]:
        if _HEX64.fullmatch(bare := tag.removeprefix("W/").strip('"').lower()):
            digests["sha256"] = bytes.fromhex(bare)
    etag = last.headers.get("ETag", "")
    return Promise(
        etag=etag if etag.startswith('"') else None,
        size=sizes[0] if sizes else _length(last),
        digests=digests,
    )


def _length(answer: Answer) -> int | None:
    if answer.status_code == 206:
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        total = answer.headers.get("Content-Length", "")
    return int(total) if total.isdigit() else None


def _declared(header: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in header.split(","):
        name, _, text = entry.strip().partition("=")
        if algorithm := _NAMES.get(name.lower()):
            found |= _decoded(algorithm, text.strip(":"))
    return found


def _decoded(algorithm: str, text: str) -> dict[str, bytes]:
    """One digest from Base64; nothing where the header is malformed, which says nothing about the body."""
    try:
        value = base64.b64decode(text, validate=True)
    except binascii.Error:
        return {}
    return {algorithm: value} if len(value) == hashlib.new(algorithm, usedforsecurity=False).digest_size else {}
