"""What a reader mended, guessed or cannot draw, in words for people: the column `warnings` of the `views` dataset."""

_MOST = 20
_LONGEST = 240


class WarningList:
    """Sentences in the order in which they were found, each once; at most 20, the last then counts the others."""

    def __init__(self) -> None:
        self._found: dict[str, None] = {}

    def add(self, sentence: str) -> None:
        """`sentence` begins in lower case and has no full stop, as the reasons of an `ObjectError`."""
        # Names from the file may hold anything; what is stored must be one line that UTF-8 can hold.
        line = " ".join(sentence.encode("utf-8", "replace").decode().split())
        self._found.setdefault(line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "...")

    def listed(self) -> tuple[str, ...]:
        found = list(self._found)
        if len(found) > _MOST:
            return (*found[: _MOST - 1], f"and {len(found) - _MOST + 1} more of the kind")
        return tuple(found)
