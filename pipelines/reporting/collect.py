"""Read a root's outputs into a report. Nothing is computed again, and nothing under the root is changed."""

import csv
import io
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq

from pipelines.registry import STAGES
from pipelines.reporting.content import Failed, PageImage, PageLimits, Report, Shown, StageSummary, Table
from pipelines.reporting.generated import decoder_of, gallery
from pipelines.reporting.media import picture
from pipelines.reporting.runs import Runs, how_to_look, place_of
from pipelines.runtime.engine import current
from pipelines.runtime.mlflow_run import without_secrets
from pipelines.runtime.output import Output, outputs
from pipelines.runtime.reading import read_rows, rows_of
from pipelines.runtime.store import Store
from pipelines.status import StatusRow, status
from sar3d.errors import UserError

_TABLE_ROWS = 50
_TABLE_COLUMNS = 24
_CELL = 300
"""Characters of a cell."""
_LARGEST = 32 << 20
"""Bytes of an artifact; larger ones are not read."""
_VIEWS = ("render", "import_chunks")
_ELEVATION = 20.0
"""Degrees above the horizon of the pictures of objects."""


@dataclass
class Reader:
    """What is common to all parts of one reading."""

    root: str
    limits: PageLimits
    runs: Runs
    notes: list[str] = field(default_factory=list)

    def picture(self, title: str, data: bytes | None) -> PageImage | None:
        """A picture for the page; None, and a note, where it cannot be read."""
        try:
            return picture(title, data, self.limits.side) if data is not None else None
        except UserError as error:
            self.notes.append(str(error))
            return None


def collect(root: str, config: Any = None, limits: PageLimits = PageLimits()) -> Report:  # noqa: B008  frozen
    """Everything that the page of a root shows.

    Args:
        root: a local folder or a URL.
        config: a `PipelineConfig`; then the page shows its outputs and its stages that have none, else the newest
            output of each stage.

    Raises:
        UserError: there is no output under the root.
    """
    chosen, earlier = _newest(status(root), config)
    if not chosen:
        raise UserError(f"there is nothing to report under {root}: no stage has been run there")
    resolved = _configuration(chosen)
    place = place_of(root, resolved)
    reader = Reader(root, limits, Runs(place))
    stages = [_stage(row, earlier[row["stage"]], reader) for row in chosen]
    listed = () if config is None else [name for name in config.stages if all(s.name != name for s in stages)]
    stages += [StageSummary(name, STAGES[name].about, "not run") for name in listed]
    stages.sort(key=lambda stage: list(STAGES).index(stage.name))
    outputs = {row["stage"]: Output(root, row["stage"], row["fingerprint"]) for row in chosen}
    shown, objects = _dataset(outputs, reader)
    generated = _generated(root, outputs.get("generate"))
    made = gallery(generated, outputs.get("download"), limits, reader.picture, reader.notes) if generated else None
    notes = [*reader.notes, *([reader.runs.problem] if reader.runs.problem else [])]
    return Report(root, time.time(), stages, shown, objects, made, without_secrets(resolved), how_to_look(place), notes)


def _newest(rows: list[StatusRow], config: Any) -> tuple[list[StatusRow], Counter[str]]:
    """One row of each stage, and how many others it has."""
    wanted: dict[str, str] = {}
    if config is not None:
        outputs = {name: current(stage, config) for name, stage in STAGES.items()}
        wanted = {name: output.fingerprint for name, output in outputs.items() if output is not None}
        rows = [row for row in rows if row["stage"] in wanted]
    count = Counter(row["stage"] for row in rows)
    chosen = {row["stage"]: row for row in rows if wanted.get(row["stage"], row["fingerprint"]) == row["fingerprint"]}
    return list(chosen.values()), Counter({name: count[name] - 1 for name in chosen})


def _generated(root: str, shown: Output | None) -> list[Output]:
    """The generated objects that are shown, and the newest finished ones by the other decoder."""
    if shown is None or shown.finished() is None:
        return [shown] if shown is not None else []
    done = [(end["finished"], output) for output in outputs(root, shown.stage) if (end := output.finished())]
    newest = [output for _, output in sorted(done, key=lambda entry: -float(entry[0]))]
    others = (output for output in newest if decoder_of(output) != decoder_of(shown))
    return [shown, *islice(others, 1)]


def _configuration(rows: Iterable[StatusRow]) -> str:
    """The configuration kept with the output that was written last."""
    for row in sorted(rows, key=lambda r: r["finished"] or 0, reverse=True):
        data = Store(row["url"]).read("artifacts/config.yaml")
        if data is not None:
            return data.decode(errors="replace")
    return ""


def _stage(row: StatusRow, earlier: int, reader: Reader) -> StageSummary:
    output = Output(reader.root, row["stage"], row["fingerprint"])
    pictures, left_out = _pictures(output, reader)
    same = ("fingerprint", "state", "objects", "rows", "failures", "steps", "seconds", "finished", "url")
    return StageSummary(
        name=row["stage"],
        about=STAGES[row["stage"]].about,
        **{key: row[key] for key in same},
        reason=row["reason"] or "",
        earlier=earlier,
        pictures=pictures,
        pictures_left_out=left_out,
        tables=_tables(output, reader),
        failed=_failed(output, reader.limits.failures) if row["failures"] else None,
        run=reader.runs.of(row["stage"], row["run_id"]),
    )


def _artifacts(output: Output, suffixes: tuple[str, ...]) -> list[str]:
    """Names below `artifacts/`; of those that a training leaves step by step, the last step's."""
    names = [name for name in output.store.names("artifacts") if name.endswith(suffixes)]
    names = [name for name in names if not name.rsplit("/", 1)[-1].startswith(".")]
    last = max((name.split("/")[1] for name in names if name.startswith("artifacts/step-")), default="")
    return [name for name in names if not name.startswith("artifacts/step-") or name.split("/")[1] == last]


def _pictures(output: Output, reader: Reader) -> tuple[list[PageImage], int]:
    names = _artifacts(output, (".png", ".gif", ".webp"))
    found = (reader.picture(_title(name), output.store.read(name)) for name in names[: reader.limits.pictures])
    return [made for made in found if made is not None], max(0, len(names) - reader.limits.pictures)


def _title(name: str) -> str:
    """`artifacts/step-000020/reconstructions_views.png` as a person would say it."""
    *_, folder, file = name.split("/")
    words = file.rpartition(".")[0].replace("_", " ").replace("-", " ")
    return f"{words}, step {int(folder[5:]):,}" if re.fullmatch(r"step-\d+", folder) else words


def _tables(output: Output, reader: Reader) -> list[Table]:
    """Artifacts that are tables: .csv, and .json of objects, of lists of them, or of names and values."""
    tables = []
    for name in _artifacts(output, (".csv", ".json")):
        if name.endswith("/failures.csv") or output.store.size(name) > _LARGEST:
            continue
        try:
            tables += _tables_of(_title(name), name, (output.store.read(name) or b"").decode())
        except ValueError as error:
            reader.notes.append(f"{output.store.address(name)} is not shown: it cannot be read ({error}).")
    return tables


def _tables_of(title: str, name: str, text: str) -> list[Table]:
    """Raises `ValueError` for what is not JSON."""
    if name.endswith(".csv"):
        return _table(title, list(csv.DictReader(io.StringIO(text))))
    value = json.loads(text)
    if not isinstance(value, dict):
        return _table(title, value)
    nested = {key: part for key, part in value.items() if isinstance(part, list | dict) and part}
    plain = [{"name": key, "value": part} for key, part in value.items() if key not in nested]
    tables = _table(title, plain)
    for key, part in nested.items():
        rows = part if isinstance(part, list) else [{"name": k, "value": v} for k, v in part.items()]
        tables += _table(f"{title}: {key}", rows)
    return tables


def _table(title: str, rows: Any) -> list[Table]:
    """One table, or none where the rows are no objects."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return []
    columns = list(dict.fromkeys(str(key) for row in rows for key in row))[:_TABLE_COLUMNS]
    cells = [[_cell(row.get(column)) for column in columns] for row in rows[:_TABLE_ROWS]]
    return [Table(title, columns, cells, max(0, len(rows) - _TABLE_ROWS))]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = " · ".join(value)
    number = f"{value:.4g}" if isinstance(value, float) else ""
    text = number or (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _CELL else f"{text[:_CELL]}…"


def _failed(output: Output, limit: int) -> Failed:
    """Of the stage's table, or of the records while it has not finished."""
    rows = output.failures() or [vars(f) for record in output.records().values() for f in record.failures]
    kinds = Counter(str(row["error"]) for row in rows)
    where = output.store.address("failures.parquet")
    return Failed(kinds.most_common(), rows[:limit], max(0, len(rows) - limit), where)


def _dataset(outputs: dict[str, Output], reader: Reader) -> tuple[list[Shown], int]:
    """The first objects of the dataset with a picture and their captions, and how many there are."""
    finished = {name: output for name, output in outputs.items() if output.finished() is not None}
    thumbnails: dict[str, bytes] = {}
    for name in _VIEWS:
        if name in finished and not thumbnails:
            thumbnails = _thumbnails(finished[name], reader.limits.shown)
    listing = finished.get("download")
    if listing is None:
        shown = [Shown(uid, "", (), reader.picture(uid, png)) for uid, png in thumbnails.items()]
        return shown, sum((finished[n].manifest() or {}).get("objects", 0) for n in _VIEWS if n in finished)
    rows: Sequence[dict[str, Any]] = list(islice(read_rows(listing, ["uid", "name", "category", "captions"]), 4096))
    drawn = ([row for row in rows if row["uid"] in thumbnails] or list(rows))[: reader.limits.shown]
    said = _described(finished.get("caption"), {row["uid"] for row in drawn})
    shown = [
        Shown(
            str(row["name"] or row["uid"]),
            str(row["category"] or ""),
            tuple(row["captions"] or ()),
            reader.picture(str(row["name"]), thumbnails.get(row["uid"])),
            said.get(row["uid"], ""),
        )
        for row in drawn
    ]
    return shown, int((listing.manifest() or {}).get("rows", 0))


def _described(output: Output | None, uids: set[str]) -> dict[str, str]:
    """What the captioner says of objects, by uid: of each the first view group's caption."""
    found: dict[str, str] = {}
    for row in rows_of(output, uids) if output is not None else ():
        found.setdefault(row["uid"], row["caption"])
    return found


def _thumbnails(views: Output, count: int) -> dict[str, bytes]:
    """A view of each of the first objects from a little above, PNG on white. Reads one row group after the other."""

    found: dict[str, bytes] = {}
    for address in views.files():
        with fsspec.open(address, "rb") as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                for row in parquet.read_row_group(group, ["uid", "rgb", "c2w"]).to_pylist():
                    if len(found) >= count:
                        return found
                    found.setdefault(row["uid"], row["rgb"][_slanted(row["c2w"])])
    return found


def _slanted(poses: Sequence[Any]) -> int:
    """The view of a group whose camera's elevation is nearest to 20 degrees."""
    centers = np.asarray(poses, np.float64).reshape(-1, 4, 4)[:, :3, 3]
    elevations = np.degrees(np.arcsin(centers[:, 2] / np.linalg.norm(centers, axis=1)))
    return int(np.abs(elevations - _ELEVATION).argmin())
