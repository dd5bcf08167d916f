"""A stage's output folder `<root>/<stage>/<fingerprint>/`: shards, their records, and how they are committed.

    part-*.parquet        rows; on an object store the name ends in the attempt that won
    manifest.json         what a reader follows: configuration, inputs, shards with rows and sha256
    failures.parquet      one row per object that could not be used
    _SUCCESS              written last, with times
    artifacts/            pictures and tables, also logged to MLflow
    _state/               records/, attempts/, lease/, plan.json: what resume needs

A shard is committed by its *record*, created by exactly one attempt. On a file system the data waits in
`_state/attempts/` until the record names it and is then renamed to its final name; an interrupted rename is completed
by whoever comes next. On an object store the data lies under a key that no other attempt uses, and the record points
at it. Either way an attempt that comes late finds the record taken, and can change nothing.
"""

import hashlib
import io
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.runtime.store import Store, disk_errors

FORMAT = 1
KEY_DIGITS = 32
FAILURES = pa.schema(
    [
        pa.field("uid", pa.string()),
        pa.field("path", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("error", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("attempts", pa.int32()),
        pa.field("stderr", pa.string()),
    ]
)


@dataclass(frozen=True)
class Failure:
    """One object that a stage could not use."""

    uid: str
    path: str
    stage: str
    error: str
    reason: str
    attempts: int = 1
    stderr: str = ""
    key: str = ""
    """The item's key in the plan; in the record only, so that failed objects can be tried again."""


@dataclass(frozen=True)
class ShardRecord:
    """What is known of one committed shard."""

    shard: str
    """Name without attempt and suffix, e.g. `part-0f3a9c21-00007`."""
    path: str
    """Where the rows are, relative to the output folder; may lead to an earlier output (`../<fingerprint>/...`)."""
    rows: int
    size: int
    sha256: str
    keys: str
    """Hex keys (32 digits each) of the items it was made from, failed ones included, in order, joined."""
    failures: list[Failure] = field(default_factory=list)
    attempt: str = ""
    seconds: float = 0.0

    @property
    def items(self) -> int:
        return len(self.keys) // KEY_DIGITS

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @staticmethod
    def from_json(data: bytes) -> "ShardRecord":
        values = json.loads(data)
        return ShardRecord(**{**values, "failures": [Failure(**f) for f in values["failures"]]})


def main_reason(records: Iterable[ShardRecord]) -> str:
    """The kind of failure that is most frequent in records with failures, how often it is there, and one reason of it."""
    failures = [failure for record in records for failure in record.failures]
    ((kind, count),) = Counter(failure.error for failure in failures).most_common(1)
    reasons = Counter(failure.reason for failure in failures if failure.error == kind)
    ((reason, same),) = reasons.most_common(1)
    often = "all" if count == len(failures) else f"{count:,}"
    return f"{often} as {kind} ({'' if same == count else 'such as: '}{reason.rstrip('.')})"


class Output:
    """One stage output. Picklable: workers commit through it."""

    def __init__(self, root: str, stage: str, fingerprint: str) -> None:
        self.stage, self.fingerprint = stage, fingerprint
        self.root = root
        self.store = Store(root).at(stage, fingerprint)
        self.state = self.store.at("_state")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Output, (self.root, self.stage, self.fingerprint))

    @property
    def url(self) -> str:
        return self.store.url

    # ---- reading

    def finished(self) -> dict[str, Any] | None:
        """The content of `_SUCCESS`, or None."""
        data = self.store.read("_SUCCESS")
        return json.loads(data) if data is not None else None

    def manifest(self) -> dict[str, Any] | None:
        data = self.store.read("manifest.json")
        return json.loads(data) if data is not None else None

    def model_digest(self) -> str:
        """Digest of a finished training output's model. The fingerprint does not tell how long it was trained."""
        digest = (self.finished() or {}).get("model")
        if digest is None:
            raise FileNotFoundError(f"{self.url} holds no finished model")
        return str(digest)

    def content(self) -> str:
        """What tells a finished output's content apart: its fingerprint, and the digest of its model if it has one."""
        digest = (self.finished() or {}).get("model")
        return f"{self.fingerprint}@{digest}" if digest else self.fingerprint

    def run_id(self) -> str | None:
        """The MLflow run of this output, if there is one."""
        data = self.state.read("mlflow.json")
        return str(json.loads(data)["run_id"]) if data is not None else None

    def files(self) -> list[str]:
        """Addresses of the committed shards, in order."""
        manifest = self.manifest()
        if manifest is None:
            raise FileNotFoundError(f"{self.url} has no manifest.json: the stage has not finished")
        return [self.store.address(s["path"]) for s in manifest["shards"]]

    def failures(self) -> list[dict[str, Any]]:
        data = self.store.read("failures.parquet")
        return pq.read_table(io.BytesIO(data)).to_pylist() if data is not None else []

    def record_names(self) -> set[str]:
        """Names of the committed shards (one listing, no reads)."""
        names = (Path(n) for n in self.store.names("_state/records"))
        return {p.stem for p in names if p.suffix == ".json" and not p.name.startswith(".")}

    def records(self) -> dict[str, ShardRecord]:
        """Every committed shard's record, by name, in order."""

        def load(name: str) -> ShardRecord:
            data = self.store.read(f"_state/records/{name}.json")
            assert data is not None, f"record {name} vanished from {self.url}"
            return ShardRecord.from_json(data)

        with ThreadPoolExecutor(32) as pool:
            return {r.shard: r for r in pool.map(load, sorted(self.record_names()))}

    # ---- writing

    def scratch(self) -> Path | None:
        """Where an attempt writes: on the root's own file system, or None (any temporary folder) for a remote root."""
        if not self.store.local:
            return None
        folder = self.state.path("attempts")
        with disk_errors(self.url):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def commit(self, data: Path, record: ShardRecord) -> tuple[ShardRecord, bool]:
        """Offer a finished local file as this shard's rows; returns the record that holds, and whether it is ours."""
        attempt = uuid.uuid4().hex[:12]
        if self.store.local:
            waiting = f"_state/attempts/{record.shard}.{attempt}.parquet"
            record = replace(record, attempt=attempt, path=f"{record.shard}.parquet")
        else:
            waiting = f"{record.shard}-{attempt}.parquet"
            record = replace(record, attempt=attempt, path=waiting)
        self.store.upload(data, waiting)
        if self.store.create(f"_state/records/{record.shard}.json", record.to_json()):
            if self.store.local:
                self.store.rename(waiting, record.path)
            return record, True
        self.store.delete([waiting])
        winner = self.store.read(f"_state/records/{record.shard}.json")
        assert winner is not None
        return ShardRecord.from_json(winner), False

    def recover(self) -> None:
        """Complete what a kill interrupted, and clear away attempts that nothing will ever name.

        Only the holder of the lease calls it, before any worker starts.
        """
        if not self.store.local:
            return
        waiting = self.state.names("attempts")
        for name in waiting:
            shard, _, attempt = Path(name).stem.partition(".")
            data = self.store.read(f"_state/records/{shard}.json")
            mine = data is not None and ShardRecord.from_json(data).attempt == attempt
            if mine and not self.store.exists(f"{shard}.parquet"):
                self.store.rename(f"_state/{name}", f"{shard}.parquet")
            else:
                self.state.delete([name])

    def adopt(self, origin: "Output", record: ShardRecord) -> None:
        """Refer to a shard that an earlier output of the same stage and configuration has committed."""
        name = Path(record.path).name
        source = record.path if record.path.startswith("../") else f"../{origin.fingerprint}/{name}"
        path = name if self.store.link(source, name) else source
        self.store.create(f"_state/records/{record.shard}.json", replace(record, path=path).to_json())

    def finish(self, records: Iterable[ShardRecord], description: dict[str, Any]) -> dict[str, Any]:
        """Write failures.parquet and manifest.json from the committed records; returns the manifest."""
        shards: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        for r in records:
            shards.append(
                {
                    "shard": r.shard,
                    "path": r.path,
                    "items": r.items,
                    "rows": r.rows,
                    "bytes": r.size,
                    "sha256": r.sha256,
                }
            )
            failures += [{name: getattr(f, name) for name in FAILURES.names} for f in r.failures]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(failures, schema=FAILURES), buffer, compression="zstd")
        self.store.put("failures.parquet", buffer.getvalue())
        manifest = {
            "format": FORMAT,
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            **description,
            "rows": sum(s["rows"] for s in shards),
            "objects": sum(s["items"] for s in shards),
            "failures": len(failures),
            "shards": shards,
        }
        self.store.put("manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode())
        return manifest

    def succeed(self, started: float, **more: Any) -> None:
        now = time.time()
        body = {"started": started, "finished": now, "seconds": round(now - started, 3), **more}
        self.store.put("_SUCCESS", json.dumps(body, indent=1).encode())


class ShardWriter:
    """Stream rows into one Parquet file: zstd, row groups of about `GROUP` bytes, little memory.

    A row group ends between two objects unless it would pass `LARGEST` bytes: a reader of one object then fetches one
    row group. Columns whose field metadata say `stored: plain` are neither compressed nor put into a dictionary.
    """

    GROUP = 12 << 20
    LARGEST = 15 << 20

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema, self.rows = path, schema, 0
        self._pending: list[dict[str, Any]] = []
        self._bytes = 0
        self._uid: Any = None
        self._writer = pq.ParquetWriter(path, schema, **_packing(schema))

    def add(self, row: dict[str, Any]) -> None:
        size = _weight(row)
        limit = self.LARGEST if row.get("uid") == self._uid else self.GROUP
        if self._pending and self._bytes + size > limit:
            self._flush()
        self._uid = row.get("uid")
        self._pending.append(row)
        self._bytes += size
        self.rows += 1

    def close(self) -> tuple[int, str]:
        """Finish the file; returns its size in bytes and its SHA-256."""
        if self._pending:
            self._flush()
        self._writer.close()
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return self.path.stat().st_size, digest.hexdigest()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._pending, schema=self.schema))
        self._pending, self._bytes = [], 0


def _packing(schema: pa.Schema) -> dict[str, Any]:
    """How a writer compresses the columns of a schema."""
    plain = {f.name for f in schema if (f.metadata or {}).get(b"stored") == b"plain"}
    if not plain:
        return {"compression": "zstd", "compression_level": 1}
    # PyArrow names a list's column by the path of its leaf; lists are small wherever a column is stored plain.
    packed = [f.name for f in schema if f.name not in plain and not pa.types.is_nested(f.type)]
    return {"compression": dict.fromkeys(packed, "zstd") | dict.fromkeys(plain, "none"), "use_dictionary": packed}


def _weight(value: Any) -> int:
    """Roughly the bytes a row takes."""
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, dict):
        return sum(_weight(v) for v in value.values())
    if isinstance(value, list | tuple):
        return 8 * len(value) if value and isinstance(value[0], float | int) else sum(_weight(v) for v in value)
    return int(getattr(value, "nbytes", 8))


def outputs(root: str, stage: str) -> Iterator[Output]:
    """Every output folder of a stage under a root, finished or not."""
    for name in Store(root).at(stage).folders():
        if len(name) == 16 and all(c in "0123456789abcdef" for c in name):
            yield Output(root, stage, name)
