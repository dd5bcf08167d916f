"""Fingerprints: what an output is a function of, in sixteen hex digits."""

import dataclasses
import hashlib
import json
import math
from typing import Any

IDENTITY = "identity"
"""Metadata key of a configuration field. False: it changes nothing that is computed (workers, time limits, mirrors).
"listing": it decides which items there are, which the items themselves show (a folder's path, a selection).
A function of the object and the field's name: it gives what counts of the value.
"""


def identity(value: Any, where: str = "config", listing: bool = False) -> Any:
    """The part of a configuration value that decides results, as JSON values; with `listing`, what selects items too.

    Raises `TypeError` for a value without a stable representation (a function, an open file, a NaN ...).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        counted = {f.name: f.metadata.get(IDENTITY, True) for f in dataclasses.fields(value)}
        left_out = (False,) if listing else (False, "listing")
        return {
            name: identity(how(value, name) if callable(how) else getattr(value, name), f"{where}.{name}", listing)
            for name, how in counted.items()
            if how not in left_out
        }
    if isinstance(value, dict):
        if not all(isinstance(k, str) for k in value):
            raise TypeError(f"{where} has a key that is not a string, so it has no stable fingerprint")
        return {k: identity(v, f"{where}.{k}", listing) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [identity(v, f"{where}[{i}]", listing) for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise TypeError(f"{where} is a {type(value).__name__} ({value!r}), which has no stable fingerprint")


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def fingerprint(*parts: Any) -> str:
    """Sixteen hex digits of SHA-256 over the canonical JSON of `parts`."""
    return hashlib.sha256(canonical(list(parts))).hexdigest()[:16]
