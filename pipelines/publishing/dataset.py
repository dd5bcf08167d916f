"""Rows of `views` and `tokens` as a dataset that others read: Parquet files, and a card that says how."""

import os
import shutil
from pathlib import Path

import fsspec
import pyarrow.parquet as pq

from pipelines.runtime.output import Output, outputs
from sar3d.errors import UserError

_TITLES = {
    "views": "Rendered views of 3D objects",
    "tokens": "Tokens of 3D objects",
    "objects": "3D objects, listed",
    "conditions": "Features of prompts",
}
_ABOUT = {
    "views": "One row for each object and view group: color, alpha, depth and normals as PNG files, cameras, normalization.",
    "tokens": "One row for each object and view group: the tokens of a multi-scale 3D VQVAE, coarse to fine.",
    "objects": "One row for each object: where its file is, its digest, name, category, captions.",
    "conditions": "One row for each prompt: features of captions or pictures by a pretrained encoder.",
}


def publish_rows(root: str, stage: str, out: Path) -> Output:
    """Put the newest finished rows of a stage into `out` as `data/*.parquet` with a card; returns what was read.

    Local files are linked where the file system allows it.

    Raises:
        UserError: the stage has finished nothing, or `out` holds something.
    """
    done = [(float(success["finished"]), made) for made in outputs(root, stage) if (success := made.finished())]
    if not done:
        raise UserError(f"there are no finished rows of {stage} in {root}: run the stage first")
    made = max(done, key=lambda entry: entry[0])[1]
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: give a new folder for the dataset")
    (out / "data").mkdir(parents=True)
    files = made.files()
    for number, address in enumerate(files):
        _bring(address, out / "data" / f"part-{number:05d}.parquet")
    (out / "README.md").write_text(dataset_card(made, out / "data"), encoding="utf-8")
    return made


def _bring(address: str, target: Path) -> None:
    source = Path(address)
    if source.is_file():
        try:
            os.link(source.resolve(), target)
        except OSError:
            shutil.copyfile(source, target)
        return
    with fsspec.open(address, "rb") as incoming, target.open("wb") as outgoing:
        shutil.copyfileobj(incoming, outgoing)


def dataset_card(made: Output, data: Path) -> str:
    """Markdown with the metadata that the Hugging Face hub reads, and examples that run beside the folder `data`."""
    manifest = made.manifest() or {}
    first = min(data.glob("*.parquet"))
    schema = pq.read_schema(first)
    kind = _kind_of(schema.names)
    columns = [f"| `{field.name}` | `{field.type}` |" for field in schema]
    rows = int(manifest.get("rows", 0))
    size = "n<1K" if rows < 1000 else "1K<n<10K" if rows < 10_000 else "10K<n<100K" if rows < 100_000 else "100K<n<1M"
    return "\n".join(
        [
            *("---", "tags: [3d, sar3d]", f"size_categories: [{size}]", "configs:", "- config_name: default"),
            *("  data_files: data/*.parquet", "---", f"# {_TITLES[kind]}", "", _ABOUT[kind], ""),
            f"{rows:,} rows of {int(manifest.get('objects', 0)):,} objects, made by stage `{made.stage}` version "
            f"{manifest.get('version')}, fingerprint `{made.fingerprint}`. The columns are explained in docs/data.md of SAR3D.",
            "",
            *("| column | type |", "|---|---|", *columns, ""),
            *("## Read", "", "```python", "from datasets import load_dataset", ""),
            'rows = load_dataset("parquet", data_files="data/*.parquet", split="train")',
            "print(len(rows), rows.column_names)",
            *("```", "", "```sql", "-- DuckDB", f"{_QUERIES[kind]};", "```", ""),
        ]
    )


_QUERIES = {
    "views": "SELECT uid, count(*) AS groups FROM 'data/*.parquet' GROUP BY uid ORDER BY uid",
    "tokens": 'SELECT uid, "group", len(codes) AS tokens FROM \'data/*.parquet\' ORDER BY uid, "group"',
    "objects": "SELECT uid, name, category FROM 'data/*.parquet' ORDER BY uid",
    "conditions": "SELECT uid, kind, count(*) AS prompts FROM 'data/*.parquet' GROUP BY uid, kind ORDER BY uid, kind",
}


def _kind_of(columns: list[str]) -> str:
    """What the rows are. Raises `UserError` for rows of another kind."""
    for column, kind in (("codes", "tokens"), ("rgb", "views"), ("pooled", "conditions"), ("path", "objects")):
        if column in columns:
            return kind
    raise UserError(
        "these rows are no dataset for others: publish those of download, render, cache_tokens or cache_conditions"
    )
