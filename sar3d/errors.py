"""The two ways in which something a person gave us can be wrong."""

import re

_OBJECT = re.compile(r"<(?:[\w.]+\.)?(\w+)(?: object)?(?: [^<>]*)? at 0x[0-9a-fA-F]+>")
_ODD = 3
"""So many characters in a row that cannot be shown are bytes that were no text."""


def readable(text: str) -> str:
    """A reason for a person: objects of Python by their kind, without their addresses; no character that cannot be shown."""
    text = " ".join(_OBJECT.sub(r"\1", text).split())
    shown = [c if c.isprintable() and c != "\ufffd" else "\0" for c in text]
    return re.sub(rf"\0{{{_ODD},}}", "(bytes that are no text)", "".join(shown)).replace("\0", "?")


class UserError(Exception):
    """A request that cannot be carried out: one sentence that names the thing and says what to do.

    Programs print it without a traceback and exit non-zero.
    """


class NothingSelectedError(UserError):
    """No object of a dataset falls into what was asked for, such as a split: a small one may have none."""


class ObjectError(Exception):
    """One object that cannot be used; it becomes a row of the failure table and never stops a run.

    `kind` is a short stable word for counting (`no_faces`, `truncated`, `timeout` ...), `reason` one sentence,
    `stderr` the tail of what the object's process wrote, if it had one, `attempts` how often it was tried.
    """

    attempts: int = 1

    def __init__(self, kind: str, reason: str, stderr: str = "") -> None:
        reason = readable(reason)
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason
        self.stderr = stderr

    def __reduce__(self) -> tuple[type["ObjectError"], tuple[str, str, str]]:
        return (type(self), (self.kind, self.reason, self.stderr))
