"""The two ways in which something a person gave us can be wrong."""


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
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason
        self.stderr = stderr

    def __reduce__(self) -> tuple[type["ObjectError"], tuple[str, str, str]]:
        return (type(self), (self.kind, self.reason, self.stderr))
