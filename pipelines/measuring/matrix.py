"""Matrices of distances between the shapes of systems and the true ones: what rows there are, and what they come to."""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow.parquet as pq

from pipelines.measuring.lines import FLOOR, TRUTH, Line
from pipelines.measuring.summary import line_of
from pipelines.runtime.output import Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import Log, Row
from sar3d.errors import UserError
from sar3d.metrics.numbers import set_numbers
from sar3d.metrics.rows import points_of
from sar3d.metrics.shapes.chamfer import Distance, distance_rows
from sar3d.metrics.shapes.matrix import Part, matrix_rows, set_distances
from sar3d.metrics.shapes.points import Points
from sar3d.metrics.shapes.sets import SetDistances

_POINTS = ["uid", "points", "points_origin", "points_step"]


@dataclass(frozen=True)
class Shapes:
    """The shapes of one system, in the order of its rows."""

    uids: Sequence[str]
    clouds: Sequence[Points]
    digests: Sequence[str]
    """Of each shape's points."""
    shifts: Sequence[str]

    @property
    def digest(self) -> str:
        """Of all of them and their order: what a row of a matrix depends on beside its own shape."""
        return hashlib.sha256("\n".join(self.digests).encode()).hexdigest()


def matrix_items(measured: Output, accuracy: bool, log: Log) -> Iterator[Item]:
    """One item for each row of each matrix; it holds digests of the row's shape and of all columns.

    Raises:
        UserError: there are no two true shapes, or no system has two.
    """
    systems = [s for s in _systems(measured) if s != TRUTH]
    truth = shapes_of(tuple(measured.files()), TRUTH)
    if len(truth.uids) < 2:
        raise UserError(
            f"COV, MMD and 1-NNA compare sets of shapes, and {measured.stage} measured {len(truth.uids)} true one: give it "
            "at least two objects"
        )
    made = {system: shapes_of(tuple(measured.files()), system) for system in systems}
    enough = {system: shapes for system, shapes in made.items() if len(shapes.uids) > 1}
    for system in made.keys() - enough.keys():
        log(f"set_distances: {system} has {len(made[system].uids)} shapes, which are no set: it is left out")
    if not enough:
        raise UserError(f"no system that {measured.stage} measured has two shapes, so there are no sets to compare")
    yield from (item for system, shapes in enough.items() for item in _rows("between", system, shapes, truth))
    if accuracy:
        yield from (i for system, shapes in enough.items() for i in _rows("of_generated", system, shapes, shapes))
        yield from _rows("of_references", TRUTH, truth, truth)


def _rows(part: Part, system: str, shapes: Shapes, columns: Shapes) -> Iterator[Item]:
    whole = columns.digest
    for row, (uid, digest) in enumerate(zip(shapes.uids, shapes.digests, strict=True)):
        about = {"system": system, "part": part, "object": uid, "row": row, "points": digest, "columns": whole}
        yield {"uid": f"{part}/{system}/{uid}", **about}


def _systems(measured: Output) -> list[str]:
    return list(dict.fromkeys(row["system"] for row in read_rows(measured, ["system"])))


@functools.lru_cache(4)
def shapes_of(files: tuple[str, ...], system: str) -> Shapes:
    """The shapes of a system that have points, read from these Parquet files."""
    found: list[Row] = []
    for address in files:
        with fsspec.open(address, "rb") as file:
            table = pq.read_table(file, columns=[*_POINTS, "shift", "system"], filters=[("system", "=", system)])
            found += [row for row in table.to_pylist() if row["points"] is not None]
    return Shapes(
        [row["uid"] for row in found],
        [points_of(row) for row in found],
        [hashlib.sha256(row["points"]).hexdigest() for row in found],
        [row["shift"] or "" for row in found],
    )


def block(measured: Output, items: Sequence[Item], distance: Distance, device: str) -> Iterator[Row]:
    """The rows of some items of one matrix. Of a matrix of a set with itself, what lies right of the diagonal."""
    system, part = items[0]["system"], items[0]["part"]
    files = tuple(measured.files())
    shapes = shapes_of(files, system)
    columns = shapes_of(files, TRUTH) if part == "between" else shapes
    places = [item["row"] for item in items]
    first = None if part == "between" else [place + 1 for place in places]
    values = distance_rows([shapes.clouds[p] for p in places], columns.clouds, distance, device, first)
    yield from matrix_rows(part, system, [item["object"] for item in items], values)


def set_lines(measured: Output, distances: Output, name: str, seed: int, log: Log) -> list[Line]:
    """COV, MMD and 1-NNA of every system, of all objects and of each shift."""
    files = tuple(measured.files())
    truth = shapes_of(files, TRUTH)
    rows = list(read_rows(distances))
    lines: list[Line] = []
    for system in dict.fromkeys(row["system"] for row in rows if row["part"] == "between"):
        shapes = shapes_of(files, system)
        own = [row for row in rows if row["system"] in (system, TRUTH)]
        whole = set_distances(shapes.uids, truth.uids, own)
        for shift in ["", *sorted({s for s in truth.shifts if s})]:
            part = _only(whole, shapes, truth, shift)
            if part is None:
                log(f"set_distances: {system} or the truth has fewer than two shapes of {shift}: no sets to compare")
                continue
            lines += [line_of(number, shift, system) for number in set_numbers(part, name, seed=seed)]
    order = {shift: place for place, shift in enumerate(dict.fromkeys(line.shift for line in lines))}
    return sorted(lines, key=lambda line: (order[line.shift], line.system == FLOOR))


def _only(whole: SetDistances, shapes: Shapes, truth: Shapes, shift: str) -> SetDistances | None:
    """The part of the matrices that belongs to a shift; None where it is no two sets."""
    if not shift:
        return whole
    generated, references = (np.flatnonzero([s == shift for s in of.shifts]) for of in (shapes, truth))
    return whole.subset(generated, references) if min(len(generated), len(references)) > 1 else None
