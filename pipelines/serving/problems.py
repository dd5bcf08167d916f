"""What a client is told when there is no answer: a kind for programs, a sentence for people."""

import re
from dataclasses import dataclass
from typing import Any

from sar3d.errors import ObjectError, UserError

RETRY_SECONDS = 2
"""When a client that was turned away may come again."""

_STATUS = {"too_large": 413, "picture_too_large": 413, "internal": 500}
"""Of the kinds of `ObjectError` that are no 422."""

_PATH = re.compile(r"(?<![\w.])/\w+/")
"""Of the server, in a sentence: it is meant for whoever runs the service."""


@dataclass
class ServiceError(Exception):
    """A request that is not answered."""

    status: int
    kind: str
    message: str
    retry_after: int | None = None

    def body(self) -> dict[str, Any]:
        """What the client gets as JSON."""
        return {"error": {"kind": self.kind, "message": self.message}}

    def headers(self) -> dict[str, str]:
        """What goes with it."""
        headers = {"cache-control": "no-store"}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def busy(message: str) -> ServiceError:
    """503: a client may come again."""
    return ServiceError(503, "busy", message, RETRY_SECONDS)


def problem_of(error: Exception) -> ServiceError:
    """What a client is told of an error of ours. What nobody foresaw is not told: it may name files."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, ObjectError):
        if error.kind == "internal":
            return ServiceError(
                422, "unreadable", "the file cannot be read: it is damaged in a way that nobody foresaw"
            )
        return ServiceError(_STATUS.get(error.kind, 422), error.kind, _sentence(error.reason))
    if isinstance(error, UserError) and not _PATH.search(str(error)):
        return ServiceError(422, "refused", _sentence(str(error)))
    return ServiceError(500, "internal", "something went wrong inside the service; its log says what")


def _sentence(text: str) -> str:
    return " ".join(text.split())[:500]
