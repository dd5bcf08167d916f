"""Models and rows in the forms of others: bundles, MLflow models, datasets, the notebook."""

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import duckdb
import generators
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipelines.cli import main
from pipelines.publishing.bundle import make_bundle
from pipelines.publishing.columns import check_rows
from pipelines.publishing.dataset import publish_rows
from pipelines.publishing.mlflow_model import save
from pipelines.runtime.output import Output
from sar3d import Sar3D, hub
from sar3d.data.formats.tokens import tokens_schema
from sar3d.errors import UserError
from sar3d.procedural import build_glb, catalog

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained models with a captioner, copied out of where they were."""
    folder = tmp_path_factory.mktemp("published")
    source = folder / "source"
    os.symlink(generators.bundle(), source)
    made = make_bundle(str(source), folder / "bundle")
    assert made.captioner is None
    generators.captioner(folder / "bundle" / "llm", hub.digest(folder / "bundle" / "vqvae"))
    return folder / "bundle"


def test_a_bundle_is_complete_and_has_a_card(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = (bundle / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sar3d")
    assert "pipeline_tag: text-to-3d" in card
    for name in ("vqvae", "ar_text", "ar_image"):
        assert f"| `{name}/` |" in card
        assert hub.digest(bundle / name) in card
        assert hub.digest(bundle / name) == hub.digest(generators.bundle() / name)
    assert main(["publish", str(generators.bundle()), "--to", str(bundle)]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.slow
def test_mlflow_loads_generates_varies_and_describes(bundle: Path, tmp_path: Path) -> None:
    import mlflow

    save(bundle, tmp_path / "model")
    assert not list((tmp_path / "model").rglob("*.pkl"))
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    glb = base64.b64encode(build_glb(catalog(1)[0].uid)).decode()
    numbers = {"seed": [3, 0, 0], "keep_scales": [0, 0, 2]}
    rows = pd.DataFrame({"text": ["a red apple", None, "a ship"], "object": [None, glb, glb], **numbers})
    params = {"grid": 24, "texture": 32, "level": 5.2}
    made = model.predict(rows, params)
    alone = Sar3D.from_pretrained(bundle, device="cpu").generate(text="a red apple", seed=3)[0]
    assert made["tokens"][0] == alone.tokens.tolist()
    assert made["tokens"][2][:15] == made["tokens"][1][:15]
    assert base64.b64decode(made["glb"][0])[:4] == b"glTF"
    assert made["glb"][1] is None
    assert all(isinstance(words, str) for words in made["caption"])
    described = json.loads((tmp_path / "model" / "serving_input_example.json").read_text())
    assert described["dataframe_split"]["data"] == [["a red apple", 0]]


def test_rows_that_ask_for_nothing_are_named() -> None:
    with pytest.raises(UserError, match="row 1 asks for nothing"):
        list(check_rows(pd.DataFrame([{"text": "a cup"}, {"text": None}])))
    with pytest.raises(UserError, match="no column 'txt'"):
        list(check_rows(pd.DataFrame([{"txt": "a cup"}])))


def tokens_output(root: Path) -> None:
    """Two objects with two groups each, as `cache_tokens` leaves them."""
    output = Output(str(root), "cache_tokens", "0123456789abcdef")
    schema = tokens_schema("d" * 64, (1, 2), 16)
    rows = [{"uid": uid, "sha256": "0" * 64, "group": g, "codes": [g] * 15} for uid in ("a", "b") for g in (0, 1)]
    folder = Path(output.url)
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "part-0.parquet")
    shard = {"shard": "part-0", "path": "part-0.parquet", "rows": 4, "items": ["a", "b"], "bytes": 1, "sha256": "0"}
    manifest = {
        "format": 1,
        "stage": "cache_tokens",
        "version": 1,
        "rows": 4,
        "objects": 2,
        "failures": 0,
        "shards": [shard],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "_SUCCESS").write_text(json.dumps({"started": 0, "finished": 1, "seconds": 1}))


def test_rows_become_a_dataset_whose_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens_output(tmp_path / "root")
    publish_rows(str(tmp_path / "root"), "cache_tokens", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "data_files: data/*.parquet" in card
    assert "4 rows of 2 objects" in card
    monkeypatch.chdir(tmp_path / "out")
    (query,) = re.findall(r"```sql\n-- DuckDB\n(.*?);\n```", card, re.DOTALL)
    assert duckdb.sql(query).fetchall() == [(uid, g, 15) for uid in ("a", "b") for g in (0, 1)]
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    space: dict[str, Any] = {}
    exec(code, space)
    assert space["rows"].num_rows == 4
    with pytest.raises(UserError, match="no finished rows of render"):
        publish_rows(str(tmp_path / "root"), "render", tmp_path / "other")


def test_the_notebook_runs(bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SAR3D_MODELS", str(bundle))
    cells = json.loads((REPOSITORY / "docs" / "tour.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == 5
    space: dict[str, Any] = {}
    for cell in code:
        exec(cell, space)
    said = capsys.readouterr().out
    assert "the first 5 of 10 scales stay" in said
    kept = re.search(r"equal tokens by scale: \[(.*?)\]", said)
    assert kept is not None
    assert [float(share) for share in kept[1].split(",")][:5] == [1.0] * 5


def test_generate_from_a_file_and_from_a_sample(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.glb").write_bytes(build_glb(catalog(1)[0].uid))
    words = [
        "generate",
        "--model",
        str(bundle),
        "--text",
        "a ship",
        "--formats",
        "",
        "--device",
        "cpu",
        "--keep-scales",
        "2",
    ]
    assert main([*words, "--from", str(tmp_path / "a.glb"), "--out", str(tmp_path / "first")]) == 0
    first = tmp_path / "first" / "a-ship-0"
    assert main([*words, "--from", str(first), "--out", str(tmp_path / "second"), "--seed", "1"]) == 0
    made = [load_file(folder / "tokens.safetensors")["tokens"] for folder in (first, tmp_path / "second" / "a-ship-1")]
    assert torch.equal(made[0][:15], made[1][:15])
    assert not torch.equal(made[0], made[1])
    assert json.loads((first / "settings.json").read_text())["keep_scales"] == 2
    capsys.readouterr()
    assert main(words) == 2
    assert "--from and --keep-scales go together" in capsys.readouterr().err
    (tmp_path / "b.glb").write_bytes(b"glTF")
    assert main([*words, "--from", str(tmp_path / "b.glb")]) == 2
    assert "b.glb: " in capsys.readouterr().err
