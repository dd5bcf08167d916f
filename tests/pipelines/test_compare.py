"""What systems wrote is compared with the truth by one command: rows, failures, tables, sets, a page; and it resumes."""

import contextlib
import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import mlflow
import numpy as np
import pytest
import trimesh
from PIL import Image

from pipelines.cli import main
from pipelines.commands.compare import SETTINGS
from pipelines.measuring.lines import Line, from_json
from pipelines.registry import STAGES, load
from pipelines.runtime.engine import Options, prepare
from pipelines.runtime.output import Output, outputs
from pipelines.runtime.reading import read_rows
from pipelines.runtime.runner import run
from sar3d.errors import UserError
from sar3d.metrics.rows import points_of
from sar3d.metrics.shapes.chamfer import chamfer
from sar3d.procedural import build_glb, catalog

pytestmark = pytest.mark.usefixtures("local_ray")
REPOSITORY = Path(__file__).resolve().parents[2]
UIDS = [entry.uid for entry in catalog(3)]
SMALL = (
    "compare.views=4",
    "compare.resolution=48",
    "compare.shape.points=256",
    "compare.shape.volume_points=1024",
    "compare.backend=raycast",
    "compare.network=efficientnet-lite0",
    "compare.similarity=efficientnet-lite0",
    "compare.musiq=off",
    "compare.shard_objects=8",
    "train_vqvae.perceptual=substitute",
)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / f"{name}.glb").write_bytes(data)
    return folder


def turned(data: bytes) -> bytes:
    """An object a quarter of a turn about the vertical axis away from its documented pose."""
    scene = trimesh.load(io.BytesIO(data), file_type="glb", force="scene")
    scene.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [0, 1, 0]))
    made: bytes = scene.export(file_type="glb")
    return made


@dataclass(frozen=True)
class Compared:
    """A comparison that has been made."""

    folder: Path
    words: list[str]
    said: str

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def output(self, stage: str = "compare") -> Output:
        (found,) = outputs(str(self.out), stage)
        return found

    def config(self, *overrides: str) -> Any:
        systems = {word.partition("=")[0]: word.partition("=")[2] for word in self.words[2:5:2]}
        words = [f"root={self.out}", f"download.directory.path={self.folder / 'truth'}"]
        return load(SETTINGS, [*words, f"compare.systems={json.dumps(systems)}", *SMALL, *overrides])

    @property
    def lines(self) -> dict[tuple[str, str], Line]:
        summary = from_json((self.out / "compare.json").read_bytes())
        return {(line.system, line.metric): line for line in summary.lines if not line.shift}


def call(words: Sequence[str]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(list(words)) == 0
    return said.getvalue()


@pytest.fixture(scope="module")
def made(local_ray: object, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Three objects: their own files, less one; of another system a broken one, another object, and a turned one."""
    folder = tmp_path_factory.mktemp("compare")
    files = {uid: build_glb(uid) for uid in UIDS}
    truth = write(folder / "truth", files)
    manifest = [{"file": f"{uid}.glb", "uid": uid, "category": "ab"[i % 2]} for i, uid in enumerate(UIDS)]
    (truth / "manifest.json").write_text(json.dumps(manifest))
    write(folder / "own", {uid: files[uid] for uid in UIDS[1:]})
    others = {UIDS[0]: b"broken", UIDS[1]: files[UIDS[2]], UIDS[2]: turned(files[UIDS[2]])}
    write(folder / "others", others)
    words = ["compare", "--system", f"gltf={folder / 'own'}", "--system", f"others:gltf={folder / 'others'}"]
    words += ["--truth", str(truth), "--out", str(folder / "out"), "--paper"]
    words += [*SMALL, "compare.shift=category"]
    return Compared(folder, words, call(words))


def test_every_object_has_a_row_for_every_system_or_a_reason(made: Compared) -> None:
    rows = list(read_rows(made.output()))
    found = {(row["uid"], row["system"]) for row in rows}
    assert len(found) == len(rows) == 2 + 2 + 3 + 3, "truth and its second sample, too"
    failures = {failure["uid"]: failure for failure in made.output().failures()}
    assert set(failures) == {f"{UIDS[0]}@gltf", f"{UIDS[0]}@others:gltf"}
    missing, broken = failures[f"{UIDS[0]}@gltf"], failures[f"{UIDS[0]}@others:gltf"]
    assert (missing["error"], missing["reason"]) == ("no_file", "gltf wrote no file of this object")
    assert broken["error"] != "no_file"
    assert {row["shift"] for row in rows} == {"a", "b"}
    (row,) = [r for r in rows if (r["uid"], r["system"]) == (UIDS[2], "others:gltf")]
    assert (row["views"], row["points_from"], len(row["transform"])) == (4, "mesh", 16)
    assert row["distances"] == ["frechet_efficientnet", "kernel_efficientnet", "frechet_efficientnet_projected_192"]
    assert Image.open(io.BytesIO(row["picture"])).size == (4 * 96, 96)
    assert any("better turned by" in warning for warning in row["warnings"])


def test_what_is_equal_has_the_best_numbers_and_the_noise_stands_beside(made: Compared) -> None:
    lines = made.lines
    assert lines["gltf", "chamfer_l1_unit_box"].value == pytest.approx(0, abs=1e-6)
    assert lines["gltf", "psnr"].value == 100
    assert lines["gltf", "silhouette_iou"].value == 1
    assert lines["gltf", "psnr"].objects == 2
    assert lines["gltf", "frechet_efficientnet"].value == pytest.approx(0, abs=1e-3)
    others = lines["others:gltf", "chamfer_l1_unit_box"]
    assert others.value is not None
    assert others.low is not None
    assert others.high is not None
    assert 0.001 < others.low <= others.value <= others.high
    floor = lines["noise_floor", "sampled_chamfer_l1_unit_box"].value
    own = lines["gltf", "sampled_chamfer_l1_unit_box"].value
    assert own == pytest.approx(floor, rel=0.5), "a copy differs from the truth as a second sample does"
    assert lines["others:gltf", "silhouette_iou_best_yaw"].value > lines["others:gltf", "silhouette_iou"].value
    assert "sar3d weights fetch inception" in lines["gltf", "fid"].note
    assert "do not keep the size" in lines["gltf", "chamfer_l1_posed"].note
    summary = from_json((made.out / "compare.json").read_bytes())
    pair = next(
        p for p in summary.pairs if (p.first, p.second, p.metric, p.shift) == ("gltf", "others:gltf", "psnr", "")
    )
    assert pair.share == 1
    assert pair.low > 0
    assert {line.shift for line in summary.lines} == {"", "a", "b"}


def test_sets_are_covered_by_copies_and_the_matrix_is_that_of_its_points(made: Compared) -> None:
    lines = made.lines
    assert lines["noise_floor", "cov_chamfer_l2_unit_box"].value == 1
    assert lines["gltf", "cov_chamfer_l2_unit_box"].value == pytest.approx(2 / 3), "of three references two have copies"
    mmd = {system: lines[system, "mmd_chamfer_l2_unit_box"].value for system in ("gltf", "others:gltf", "noise_floor")}
    assert mmd["noise_floor"] < mmd["gltf"]
    assert "2 generated, 3 references" in lines["gltf", "cov_chamfer_l2_unit_box"].about
    points = {(row["uid"], row["system"]): points_of(row) for row in read_rows(made.output()) if row["points"]}
    truth = [uid for uid, system in points if system == "truth"]
    for row in read_rows(made.output("set_distances")):
        if row["part"] == "between" and row["system"] == "others:gltf":
            expected = [chamfer(points[row["uid"], "others:gltf"], points[uid, "truth"]) for uid in truth]
            np.testing.assert_allclose(row["distances"], expected, atol=1e-12)


def test_blocks_of_other_sizes_give_the_same_matrix(made: Compared) -> None:
    stage = STAGES["set_distances"]
    context = prepare(stage, made.config("compare.shift=category"), lambda _: None)
    items = list(stage.items(context, lambda _: None))
    again = [row for item in reversed(items) for row in stage.process(context, [item])]
    stored = list(read_rows(made.output("set_distances")))
    assert again[::-1] == stored


def test_tables_metrics_and_page_say_the_same(made: Compared) -> None:
    artifacts = Path(made.output().url) / "artifacts"
    lines = list(csv.DictReader(io.StringIO((artifacts / "compare.csv").read_text())))
    assert {"shift", "metric", "better", "gltf", "others:gltf", "noise_floor", "objects", "note"} <= set(lines[0])
    psnr = next(line for line in lines if (line["shift"], line["metric"]) == ("all", "psnr"))
    value = made.lines["others:gltf", "psnr"].value
    assert value is not None
    assert psnr["others:gltf"].startswith(f"{value:.4g} [")
    assert psnr["objects"] == "2"
    client = mlflow.MlflowClient(f"sqlite:///{made.out}/mlflow.db")
    logged = client.get_run(str(made.output().run_id())).data.metrics
    assert logged["others:gltf/psnr"] == pytest.approx(value)
    assert logged["others:gltf/psnr/low"] <= value <= logged["others:gltf/psnr/high"]
    sets = client.get_run(str(made.output("set_distances").run_id())).data.metrics
    assert sets["noise_floor/cov_chamfer_l2_unit_box"] == 1
    for name in ("compare_intervals.png", "compare_objects.png"):
        assert Image.open(artifacts / name).width > 200
    page = (made.out / "report.html").read_text()
    assert "chamfer_l1_unit_box" in page
    assert "one_nna_chamfer_l2_unit_box" in page
    assert "wrote no file of this object" in page


def test_the_command_prints_ours_and_on_request_the_papers_table_apart(made: Compared) -> None:
    assert "frechet_efficientnet" in made.said
    ours, _, rest = made.said.partition("Published (")
    assert "| Shap-E | 138.53 |" in rest
    assert "not to be ranked" in rest
    assert "| ours: gltf | – | – | – | 66.67 |" in rest
    assert "Shap-E" not in ours
    assert str(made.out / "compare.json") in made.said


def test_the_same_command_does_nothing_again(made: Compared) -> None:
    assert call(made.words).count("reused") == 3

    def foreseen(*overrides: str) -> str:
        config = made.config("compare.shift=category", *overrides)
        return run(STAGES["compare"], config, Options(dry_run=True), lambda _: None).fingerprint

    here = made.output().fingerprint
    assert foreseen("compare.workers=1") == here
    changes = ("align=yaw", "views=5", "resolution=64", "shape.points=300", "network=none", "shift=")
    assert len({foreseen(f"compare.{change}") for change in changes} | {here}) == 1 + len(changes)


def test_summaries_are_queries(made: Compared) -> None:
    (query,) = re.findall(r"```sql\n(.*?)```", (REPOSITORY / "docs" / "metrics.md").read_text(), re.DOTALL)
    rows = duckdb.sql(query.replace("rows/*.parquet", f"{made.output().url}/part-*.parquet")).fetchall()
    for system, mean, count in rows:
        if system not in ("truth", "noise_floor"):
            line = made.lines[system, "chamfer_l1_unit_box"]
            assert (mean, count) == (pytest.approx(line.value), line.objects)
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "what is to be compared"),
        (["--system", "gltf=x"], "needs --system NAME=DIR, --truth DIR and --out DIR"),
        (["--system", "gltf", "--truth", "t", "--out", "o"], "--system gltf is wrong"),
        (["--system", "gltf=x", "--system", "gltf=y", "--truth", "t", "--out", "o"], "is given twice"),
    ],
)
def test_a_command_that_is_not_whole_is_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_bad_input_is_one_sentence(made: Compared, tmp_path: Path) -> None:
    stage = STAGES["compare"]

    context = prepare(stage, made.config(), lambda _: None)

    def asked(**changes: Any) -> None:
        wrong = replace(context, config=replace(context.config, **changes))
        stage.check(wrong)
        list(stage.items(wrong, lambda _: None))

    cases: list[tuple[dict[str, Any], str]] = [
        ({"shift": "color"}, "shift=color is no column of texts: choose from name, category"),
        ({"systems": {}}, "there is nothing to compare"),
        ({"systems": {"unknown": str(tmp_path)}}, "there is no importer 'unknown'"),
        ({"systems": {"truth": str(tmp_path)}}, "cannot be called truth"),
        ({"systems": {"lgm": str(tmp_path)}}, "holds none of the 3 objects of the truth as LGM writes them"),
    ]
    for changes, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            asked(**changes)


def test_one_object_is_no_set(made: Compared, tmp_path: Path) -> None:
    from pipelines.measuring.matrix import matrix_items

    rows = [row for row in read_rows(made.output()) if row["uid"] == UIDS[1]]

    class One:
        stage = "compare"

        def files(self) -> list[str]:
            return [str(tmp_path / "one.parquet")]

    import pyarrow as pa
    import pyarrow.parquet as pq

    from sar3d.metrics.rows import system_schema

    pq.write_table(pa.Table.from_pylist(rows, system_schema()), tmp_path / "one.parquet")
    with pytest.raises(UserError, match="compare measured 1 true one: give it at least two objects"):
        list(matrix_items(One(), True, lambda _: None))  # type: ignore[arg-type]
