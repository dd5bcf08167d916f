"""Tensor names of two systems, translated by a table of prefixes."""

import re
from collections.abc import Iterable

Table = tuple[tuple[str, str], ...]
"""Pairs (theirs, ours) of name prefixes that end at a dot; `*` stands for a number, the first pair that fits decides."""


def theirs_to_ours(name: str, table: Table) -> str | None:
    """Our name of their tensor; None where the table has none."""
    return _translate(name, table)


def ours_to_theirs(name: str, table: Table) -> str | None:
    """Their name of our tensor; None where the table has none."""
    return _translate(name, ((ours, theirs) for theirs, ours in table))


def _translate(name: str, pairs: Iterable[tuple[str, str]]) -> str | None:
    for source, target in pairs:
        pattern = re.escape(source).replace(r"\*", r"(\d+)")
        if found := re.match(rf"{pattern}(?=\.|$)", name):
            return target.replace("*", "{}").format(*found.groups()) + name[found.end() :]
    return None


def count(names: Iterable[str], prefix: str) -> int:
    """How many numbers follow `prefix.` among the names, for example layers of a list."""
    found = (re.match(rf"{re.escape(prefix)}\.(\d+)(?=\.|$)", name) for name in names)
    return len({match[1] for match in found if match})
