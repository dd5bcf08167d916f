"""The stages as a user runs them, on a real local Ray: objects in, views out."""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hub_server import Fault, fill_objaverse, serve
from PIL import Image

from pipelines.gc import collect
from pipelines.registry import STAGES, load
from pipelines.render import warned_objects
from pipelines.runtime.engine import Options, run_stage
from pipelines.runtime.output import Output, outputs
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import StageReport
from pipelines.status import status
from sar3d.data.formats.views import decode_row
from sar3d.procedural import build_glb, catalog

pytestmark = pytest.mark.usefixtures("local_ray")
REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = ["render.resolution=64", "render.views=6", "tracking.enabled=false", "stages=[download, render]"]


def configure(name: str, root: str | Path, *overrides: str) -> Any:
    return load(REPOSITORY / "configs" / f"{name}.yaml", [f"root={root}", *QUICK, *overrides])


def run(config: Any, *stages: str) -> list[StageReport]:
    return [run_stage(STAGES[s], config, Options(), log=lambda _: None) for s in stages or config.stages]


def output(config: Any, report: StageReport) -> Output:
    return Output(config.root, report.stage, report.fingerprint)


def folder_of(tmp_path: Path, count: int) -> Path:
    folder = tmp_path / "objects"
    folder.mkdir(exist_ok=True)
    for made in catalog(count):
        (folder / f"{made.uid}.glb").write_bytes(build_glb(made.uid))
    return folder


def test_procedural_objects_become_views(tmp_path: Path) -> None:
    config = configure("demo", tmp_path, "download.procedural.count=5", "render.views=40", "render.resolution=96")
    download, render = run(config)
    objects = list(read_rows(output(config, download)))
    assert [o["uid"] for o in objects] == [c.uid for c in catalog(5)]
    assert all(o["captions"] and o["category"] and o["licence"] == "CC0-1.0" for o in objects)
    rows = list(read_rows(output(config, render)))
    assert [(r["uid"], r["group"]) for r in rows] == [(o["uid"], g) for o in objects for g in range(4)]
    views = decode_row(rows[0])
    assert views.rgb.shape == (12, 96, 96, 3)
    assert views.depth.shape == (12, 96, 96)
    seen = views.alpha > 250
    assert seen.any(axis=(1, 2)).all()
    assert (views.depth[seen] > 1).mean() > 0.97
    facing = (views.normal * views.c2w[:, None, None, :3, 2]).sum(-1)[views.depth > 0]
    assert (facing < 0.35).all(), "normals face the camera (perspective leaves a little room at the rim)"
    sheet = Image.open(io.BytesIO(output(config, render).store.read("artifacts/contact_sheet.png") or b""))
    assert np.asarray(sheet).std() > 20
    assert rows[0]["sha256"] == objects[0]["sha256"]


@pytest.mark.acceptance("Every file of the folder of hard files gets what its manifest expects, through the stages")
def test_the_hard_files(shared: Path, tmp_path: Path) -> None:
    if not (shared / "hard").is_dir():
        pytest.skip("the folder ../shared/hard is not here")
    config = configure("objects", tmp_path, f"download.directory.path={shared / 'hard'}", "max_failure_rate=1")
    download, render = run(config)
    done = {r["path"] for r in read_rows(output(config, download))} & drawn(config, download, render)
    failed = {f["path"]: f for r in (download, render) for f in output(config, r).failures()}
    assert not done & set(failed)
    wrong = []
    for case in json.loads((shared / "hard" / "manifest.json").read_text()):
        file, expect = case["file"], case["expect"]
        assert (file in done) != (file in failed), f"{file} vanished"
        reason = failed.get(file)
        if reason and (reason["error"] in ("internal", "crashed", "timeout") or len(reason["reason"]) < 10):
            wrong.append((file, reason))
        if expect == "mesh" and reason:
            wrong.append((file, reason))
        if expect.startswith("reject") and not reason:
            wrong.append((file, "was accepted"))
        if expect == "reject_no_faces" and reason and reason["error"] != "no_faces":
            wrong.append((file, reason))
    assert not wrong


def drawn(config: Any, download: StageReport, render: StageReport) -> set[str]:
    uids = {r["uid"] for r in read_rows(output(config, render), ["uid"])}
    return {r["path"] for r in read_rows(output(config, download)) if r["uid"] in uids}


def test_added_objects_alone_are_drawn(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 10)
    config = configure("objects", tmp_path / "r", f"download.directory.path={folder}", "render.shard_objects=4")
    first = run(config)
    folder_of(tmp_path, 14)
    for made in catalog(10):  # touched, not changed: read again, but not drawn again
        (folder / f"{made.uid}.glb").touch()
    second = run(config)
    assert second[0].fingerprint != first[0].fingerprint
    assert (second[1].objects, second[1].shards_reused, second[1].shards_run) == (14, 3, 1)
    rows = [r["uid"] for r in read_rows(output(config, second[1]), ["uid"])]
    assert sorted(rows) == sorted(c.uid for c in catalog(14)) or len(set(rows)) == 14


def test_a_changed_file_is_drawn_anew(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3)
    config = configure("objects", tmp_path / "r", f"download.directory.path={folder}", "render.shard_objects=1")
    run(config)
    first, second = catalog(2)
    (folder / f"{first.uid}.glb").write_bytes(build_glb(second.uid))
    again = run(config)
    assert (again[1].shards_run, again[1].shards_reused) == (1, 2)


def test_published_chunks_become_views(shared: Path, tmp_path: Path) -> None:
    chunks = shared / "goldens" / "chunk_synth"
    if not chunks.is_dir():
        pytest.skip("the folder ../shared/goldens/chunk_synth is not here")
    config = configure("demo", tmp_path, f"import_chunks.path={chunks}")
    (report,) = run(config, "import_chunks")
    rows = list(read_rows(output(config, report)))
    assert report.failures == 0
    assert len(rows) == report.objects >= 1
    assert decode_row(rows[0]).rgb.shape == (12, 256, 256, 3)


def test_a_folder_on_an_object_store_is_drawn_to_an_object_store(s3_root: str, tmp_path: Path) -> None:
    import fsspec

    folder = folder_of(tmp_path, 3)
    fs, base = fsspec.core.url_to_fs(s3_root)
    for file in folder.iterdir():
        fs.put_file(str(file), f"{base}/in/{file.name}")
    for name, data in textured_box().items():
        fs.pipe_file(f"{base}/in/{name}", data)
    config = configure("objects", f"{s3_root}/out", f"download.directory.path={s3_root}/in")
    download, render = run(config)
    assert (download.rows, render.rows, render.failures) == (4, 4, 0)
    assert run(config)[1].state == "reused"
    rows = {row["uid"]: row for row in read_rows(output(config, render))}
    (box,) = (o["uid"] for o in read_rows(output(config, download)) if o["path"].endswith(".obj"))
    assert decode_row(rows[box]).rgb.shape == (6, 64, 64, 3)
    assert [uid for uid, row in rows.items() if row["warnings"]] == [box]
    assert "'box/textures/skin.png' was taken" in rows[box]["warnings"][0]
    assert warned_objects(output(config, render)) == {box}
    red, green, blue = decode_row(rows[box]).rgb[0, 32, 32].tolist()
    assert min(red, green) > 100 > blue, "the yellow texture, above the object's folder, is drawn"


def textured_box() -> dict[str, bytes]:
    """As Sketchfab packs it, but with capitals that are not on the disk."""
    picture = io.BytesIO()
    Image.new("RGB", (2, 2), (255, 255, 0)).save(picture, "PNG")
    corners = [(x, y, z) for z in (0, 1) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
    sides = ((1, 4, 3, 2), (5, 6, 7, 8), (1, 2, 6, 5), (2, 3, 7, 6), (3, 4, 8, 7), (4, 1, 5, 8))
    lines = ["mtllib m.mtl", *(f"v {x} {y} {z}" for x, y, z in corners), "vt 0.5 0.5", "usemtl skin"]
    lines += ["f " + " ".join(f"{c}/1" for c in side) for side in sides]
    return {
        "box/source/m.obj": "\n".join(lines).encode(),
        "box/source/m.mtl": b"newmtl skin\nmap_Kd ../Textures/Skin.PNG\n",
        "box/textures/skin.png": picture.getvalue(),
    }


def test_status_and_gc(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 4)
    config = configure("objects", tmp_path / "r", f"download.directory.path={folder}", "render.shard_objects=2")
    first = run(config)
    folder_of(tmp_path, 6)
    second = run(config)
    rows = {(r["stage"], r["fingerprint"]): r for r in status(config.root)}
    assert rows["render", first[1].fingerprint]["current"] is False
    assert (
        rows["render", second[1].fingerprint] | {"state": "done", "rows": 6, "failures": 0, "current": True}
        == (rows["render", second[1].fingerprint])
    )
    collect([config], delete=False)
    assert len(list(outputs(config.root, "render"))) == 2
    collect([config], delete=True)
    assert [o.fingerprint for o in outputs(config.root, "render")] == [second[1].fingerprint]
    assert len(list(read_rows(output(config, second[1])))) == 6, "what the kept output refers to is still there"
    assert pq.read_table(output(config, second[1]).files()[0]).num_rows == 2
    assert run(config)[1].state == "reused"


def test_gc_on_an_object_store_keeps_what_is_referred_to(s3_root: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 4)
    config = configure("objects", s3_root, f"download.directory.path={folder}", "render.shard_objects=2")
    run(config)
    folder_of(tmp_path, 6)
    second = run(config)
    collect([config], delete=True)
    assert len(list(read_rows(output(config, second[1])))) == 6


@pytest.mark.acceptance(
    "Objaverse from a flaky hub: 20 added uids transfer and are drawn, and only those; never stored wrong"
)
def test_objaverse_grows_through_both_stages(tmp_path: Path) -> None:
    objects = {f"{i:032x}": build_glb(made.uid) for i, made in enumerate(catalog(40))}
    uids = list(objects)
    with serve() as hub:
        described = {uid: {"name": f"thing {uid[-2:]}", "license": "by", "tags": [], "categories": []} for uid in uids}
        fill_objaverse(hub, objects, described, {"chair": uids[:5]})
        paths = {uid: next(p for p in hub.files if uid in p) for uid in uids}
        hub.faults[paths[uids[0]]] = [Fault(status=500), Fault(cut=300)]
        hub.faults[paths[uids[1]]] = [Fault(corrupt=True)]
        hub.always[paths[uids[2]]] = Fault(body=b"<!DOCTYPE html><html>not here</html>")
        hub.always[paths[uids[3]]] = Fault(status=404)
        chosen = tmp_path / "uids.txt"
        settings = [
            "download.source=objaverse",
            f"download.objaverse.uids_file={chosen}",
            f"download.objaverse.mirror={hub.url}",
        ]
        settings += [f"download.objaverse.cache={tmp_path / 'cache'}", "download.objaverse.transfer.backoff_s=0.01"]
        config = configure(
            "demo", tmp_path / "r", *settings, "download.objaverse.transfer.stall_timeout_s=1", "render.shard_objects=5"
        )

        chosen.write_text("\n".join(uids[:20]))
        first = run(config)
        failed = {f["uid"]: f for f in output(config, first[0]).failures()}
        assert set(failed) == {uids[2], uids[3]}
        assert failed[uids[3]]["error"] == "http_404"
        assert first[1].objects == 18
        for row in read_rows(output(config, first[0])):
            assert row["sha256"] == hashlib.sha256(objects[row["uid"]]).hexdigest()

        hub.log.clear()
        again = run(config)
        assert [r.state for r in again] == ["reused", "reused"]
        assert not [p for p, _ in hub.log if p.endswith(".glb")], "a second run transfers nothing"

        hub.log.clear()
        chosen.write_text("\n".join(uids))
        second = run(config)
        fetched = {p.rsplit("/", 1)[-1].removesuffix(".glb") for p, _ in hub.log if p.endswith(".glb")}
        assert fetched == set(uids[20:])
        assert (second[1].objects, second[1].shards_reused, second[1].shards_run) == (38, 4, 4)

        del hub.always[paths[uids[2]]], hub.always[paths[uids[3]]]
        third = run(configure("demo", tmp_path / "r", *settings, "download.retry=1", "render.shard_objects=5"))
        assert (third[0].failures, third[1].objects) == (0, 40)


@pytest.mark.slow
def test_sigterm_keeps_what_is_done_and_says_how_to_go_on(tmp_path: Path) -> None:
    words = [
        "run",
        "--config",
        "configs/demo.yaml",
        f"root={tmp_path}",
        "download.procedural.count=24",
        *QUICK,
        "stages=[download, render]",
    ]
    words += ["render.shard_objects=2", "render.views=30", "cluster.address=local"]
    command = [sys.executable, "-m", "pipelines.cli", *words]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("render/*/_state/records/*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; run the same command again" in said.splitlines()[-1]
    (row,) = [r for r in status(str(tmp_path)) if r["stage"] == "render"]
    assert row["state"] == "stopped"
    assert 0 < row["objects"] < 24
    again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert re.search(r"\d+ shards are committed already", again.stderr)


def test_status_finds_roots_without_a_configuration(tmp_path: Path) -> None:
    run(configure("demo", tmp_path / "runs" / "x", "download.procedural.count=2"), "download")
    for words in (["runs/x"], [], ["root=runs/x"]):
        command = [sys.executable, "-m", "pipelines.cli", "status", "--json", *words]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=True)
        (row,) = json.loads(found.stdout)
        assert (row["stage"], row["state"], row["rows"]) == ("download", "done", 2)
