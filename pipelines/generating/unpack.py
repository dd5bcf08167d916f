"""The files of generated objects, out of the rows into a folder for each object."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipelines.generating.rows import FILES, SETTINGS
from pipelines.runtime.output import Output
from pipelines.runtime.reading import read_rows

FOLDER = "files"
_WRITERS = 4


def unpack(output: Output) -> None:
    """Write `files/<id>/…` of every row of an output whose manifest is there. Rows hold the truth; these are copies."""
    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="unpack") as pool:
        # A few objects at once: memory must not hold them all.
        for row in read_rows(output, batch=_WRITERS):
            list(pool.map(lambda file: output.store.put(*file), _files(row)))


def _files(row: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Names and contents; the settings come last, so a folder that has them is complete."""
    place = f"{FOLDER}/{row['uid']}"
    for column, file in FILES.items():
        if row[column] is not None:
            yield f"{place}/{file}", row[column]
    yield f"{place}/{SETTINGS}", row["settings"].encode()
