"""The page of a root: what it shows, that it fetches and runs nothing of others, and how it looks in a real browser."""

import asyncio
import base64
import gzip
import hashlib
import io
import json
import re
import shutil
import tempfile
import time
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rendered
from browser import Page, browser, visit
from PIL import Image

from pipelines.cli import main
from pipelines.generating.rows import generated_schema
from pipelines.report import report
from pipelines.reporting.collect import collect
from pipelines.reporting.content import Chart, PageLimits
from pipelines.reporting.media import picture
from pipelines.reporting.page import curve, render, size, span
from pipelines.reporting.runs import Runs, place_of, thinned, without_secrets
from pipelines.runtime.mlflow_run import Place
from pipelines.runtime.output import Failure, Output, ShardRecord
from pipelines.runtime.store import Store
from sar3d.errors import UserError
from sar3d.procedural import build_glb, catalog
from sar3d.vqvae.flexi_config import FieldDecoder

EVIL = "</script></pre><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def png(width: int = 64, height: int = 64, noise: bool = False) -> bytes:
    pixels = np.full((height, width, 3), (40, 120, 200), np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 255, pixels.shape, dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write_output(
    root: Path | str, stage: str, rows: list[dict[str, Any]], schema: pa.Schema, *failures: Failure
) -> Output:
    """A finished output, written as the engine does."""
    content = f"{stage} {(schema.metadata or {}).get(b'decoder', b'').decode()}"
    output = Output(str(root), stage, hashlib.sha256(content.encode()).hexdigest()[:16])
    keys = "".join(f"{i:032x}" for i in range(len(rows) + len(failures)))
    record = ShardRecord(f"part-{output.fingerprint[:8]}-00000", "", len(rows), 1, "-", keys, list(failures))
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "part.parquet")
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), part)
        record, _ = output.commit(part, record)
    output.finish([record], {"version": 1})
    output.store.put("artifacts/config.yaml", b"root: x\ntracking: {enabled: false}\n")
    output.succeed(time.time() - 3.5)
    return output


def write_generated(
    root: Path | str, count: int = 2, *, text: str = "", glb: bytes | None = None, decoder: FieldDecoder = "nerf"
) -> Output:
    made = list(catalog(count))
    rows = [
        {
            "uid": f"sample-{i}",
            "kind": "text",
            "text": text or one.captions[0],
            "object": one.uid,
            "seed": i,
            "tokens": [0] * 15,
            "settings": json.dumps({"seed": i, "caption": text, "prompt": {"kind": "text", "text": text}}),
            "glb": build_glb(one.uid) if glb is None else glb,
            "png": png(),
        }
        for i, one in enumerate(made)
    ]
    return write_output(root, "generate", rows, generated_schema("0" * 16, (1, 2), 512, decoder))


class Read(HTMLParser):
    """Every tag with its attributes, and every text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._quiet = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._quiet += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._quiet -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._quiet:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(root: Path | str, **more: Any) -> Read:
    return Read(render(collect(str(root), **more)))


@pytest.mark.usefixtures("local_ray")
def test_a_root_is_shown_as_far_as_it_has_come(tmp_path: Path) -> None:
    config = rendered.configure(rendered.root())
    where = report(config.root, lambda _: None, out=str(tmp_path / "page.html"))
    page = Read(Path(where).read_text())
    rows = [row["data-stage"] for row in page.all("tr") if "data-stage" in row]
    assert {"download", "render"} <= set(rows)
    for one in catalog(rendered.OBJECTS):
        assert one.name in page.text
        assert one.captions[0] in page.text
    pictures = {image["alt"] or "" for image in page.all("img") if image.get("src")}
    assert {"contact sheet", *(one.name for one in catalog(rendered.OBJECTS))} <= pictures
    assert len(Path(where).read_bytes()) < 5e6
    assert "viewer-code" not in {script.get("id") for script in page.all("script")}, (
        "no viewer where there is nothing to turn"
    )


@pytest.mark.usefixtures("local_ray")
def test_with_a_configuration_stages_without_output_are_named() -> None:
    config = rendered.configure(rendered.root(), "stages=[download, render, cache_tokens]", "render.resolution=32")
    stages = {stage.name: stage.state for stage in collect(config.root, config).stages}
    assert stages["download"] == "done"
    assert stages["render"] == "not run", "an output of other settings is not this configuration's"
    assert stages["cache_tokens"] == "not run"


def test_nothing_to_report_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no stage has been run there"):
        collect(str(tmp_path))
    assert main(["report", str(tmp_path / "none")]) == 2
    assert main(["report"]) == 2
    assert main(["report", str(tmp_path), "--objects", "-1"]) == 2
    lines = capsys.readouterr().err.strip().replace("\n", " ").split("error: ")[1:]
    assert len(lines) == 3
    assert "takes one root" in lines[1]
    assert "--objects -1 is wrong" in lines[2]


def test_failures_are_counted_by_kind_and_listed(tmp_path: Path) -> None:
    failed = [
        Failure(f"uid-{i}", f"folder/{i}.glb", "render", "no_faces", f"the file {i} has no faces") for i in range(7)
    ]
    failed.append(Failure("uid-9", EVIL, "render", "timeout", "it took more than 60 s", attempts=3))
    write_output(tmp_path, "render", [], pa.schema([pa.field("uid", pa.string())]), *failed)
    page = page_of(tmp_path, limits=PageLimits(failures=5))
    assert "7 no_faces" in page.text
    assert "1 timeout" in page.text
    assert "the file 3 has no faces" in page.text
    assert "the file 5 has no faces" not in page.text
    assert re.search(r"3 more are in .*failures\.parquet", page.text)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    output = write_generated(tmp_path, 3)
    page = page_of(tmp_path, limits=PageLimits(objects=2))
    assert len([a for a in page.all("div") if a.get("class") == "viewer"]) == 2
    assert "2 of 3" in page.text
    assert f"1 are left out to keep this page small; they are in {output.url}" in page.text
    first = len(build_glb(catalog(3)[0].uid))
    gallery = collect(str(tmp_path), limits=PageLimits(object_bytes=first)).gallery
    assert gallery is not None
    assert (len(gallery.objects), gallery.left_out) == (1, 2)
    assert not page_of(tmp_path, limits=PageLimits(objects=0)).all("article")


def test_objects_of_both_decoders_stand_beside_each_other(tmp_path: Path) -> None:
    write_generated(tmp_path, 2)
    write_generated(tmp_path, 2, decoder="flexicubes")
    gallery = collect(str(tmp_path)).gallery
    assert gallery is not None
    assert [(made.name, made.decoder.split()[0]) for made in gallery.objects] == [
        ("sample-0", "mesh"),
        ("sample-0", "marching"),
        ("sample-1", "mesh"),
        ("sample-1", "marching"),
    ]
    assert "marching cubes over the radiance field" in page_of(tmp_path).text
    assert "4 of 4" in page_of(tmp_path).text


def test_text_from_data_stays_text(tmp_path: Path) -> None:
    write_generated(tmp_path, 1, text=EVIL)
    page = page_of(tmp_path)
    assert EVIL in page.text
    assert not [a for a in page.all("img") if a.get("src") == "x"]
    assert len([a for a in page.all("script") if a.get("type") != "text/plain"]) == 1


def test_the_page_may_fetch_nothing_and_run_nothing_else(tmp_path: Path) -> None:
    write_generated(tmp_path, 1)
    text = render(collect(str(tmp_path)))
    page = Read(text)
    policy = next(a["content"] or "" for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    scripts = re.search(r"script-src ([^;]+)", policy)
    assert scripts is not None
    assert "'unsafe-inline'" not in scripts[1]
    assert "https:" not in policy
    own = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert own is not None
    assert f"'sha256-{base64.b64encode(hashlib.sha256(own[1].encode()).digest()).decode()}'" in scripts[1]
    viewer = re.search(r'id="viewer-code">(.*?)</script>', text, re.DOTALL)
    assert viewer is not None
    code = gzip.decompress(base64.b64decode(viewer[1]))
    assert f"'sha256-{base64.b64encode(hashlib.sha256(code).digest()).decode()}'" in scripts[1]
    for tag in ("img", "script", "link", "iframe", "source"):
        for attributes in page.all(tag):
            assert (attributes.get("src") or attributes.get("href") or "data:").startswith("data:")


def test_the_viewer_is_the_published_file_with_its_licences() -> None:
    assets = resources.files("pipelines.reporting") / "assets"
    licences = (assets / "LICENSES.txt").read_text()
    assert hashlib.sha256((assets / "model-viewer.min.js").read_bytes()).hexdigest() in licences
    for name in (
        "Apache License",
        "three.js authors",
        "BSD 3-Clause",
        "Arseny Kapoulkine",
        "Arjun Barrett",
        "MONOGRID",
    ):
        assert name in licences


def test_a_root_on_an_object_store(s3_root: str) -> None:
    write_generated(s3_root, 1)
    said: list[str] = []
    where = report(s3_root, said.append)
    assert where == f"{s3_root}/report.html"
    page = Read((Store(s3_root).read("report.html") or b"").decode())
    assert f"{s3_root}/generate" in page.text
    assert where in said[-1]


@pytest.mark.usefixtures("local_ray")
def test_objects_stand_with_what_the_captioner_says_of_their_first_view_group(tmp_path: Path) -> None:
    shutil.copytree(Path(rendered.root(), "download"), tmp_path / "download")
    uids = [one.uid for one in catalog(2)]
    text = pa.string()
    schema = pa.schema([("uid", text), ("sha256", text), ("group", pa.int16()), ("question", text), ("caption", text)])
    said = [(uids[0], 0, "a fine thing"), (uids[0], 1, "another side"), (uids[1], 0, "<b>bold</b>")]
    rows = [{"uid": u, "sha256": "0", "group": g, "question": "What is it?", "caption": c} for u, g, c in said]
    write_output(tmp_path, "caption", rows, schema)
    page = page_of(tmp_path)
    assert "a fine thing" in page.text
    assert "another side" not in page.text
    assert "<b>bold</b>" in page.text, "as text, not as a tag"


def test_an_object_that_is_no_glb_is_said_to_be_none(tmp_path: Path) -> None:
    write_generated(tmp_path, 1, glb=b"<html>")
    collected = collect(str(tmp_path))
    assert collected.gallery is not None
    assert not collected.gallery.objects
    assert "sample-0 is not shown" in " ".join(collected.notes)
    assert "sample-0 is not shown" in Read(render(collected)).text


def test_tables_and_pictures_of_an_output_are_shown(tmp_path: Path) -> None:
    output = write_generated(tmp_path, 1)
    told = {
        "captions": [{"name": "apple", "said": "a red apple", "captions": ["an apple", "red"]}],
        "absent": {"x": "why"},
    }
    output.store.put("artifacts/step-000010/captions_views.json", json.dumps({"captions": [{"said": "old"}]}).encode())
    output.store.put("artifacts/step-000200/captions_views.json", json.dumps(told).encode())
    output.store.put("artifacts/table.csv", b"metric,value\npsnr,21.5\n")
    output.store.put("artifacts/broken.json", b"{")
    output.store.put("artifacts/broken.png", b"no picture")
    output.store.put("artifacts/large.png", png(3000, 1000, noise=True))
    page = page_of(tmp_path)
    assert "captions views, step 200: captions" in page.text
    assert "an apple · red" in page.text
    assert "why" in page.text
    assert "21.5" in page.text
    assert "old" not in page.text
    assert "broken.json is not shown" in page.text
    assert "the picture broken cannot be read" in page.text
    large = next(image for image in page.all("img") if image["alt"] == "large")
    assert large["width"] == "2400"


def test_passwords_in_addresses_are_not_shown(tmp_path: Path) -> None:
    output = write_generated(tmp_path, 1)
    uri = "http://name:secret@127.0.0.1:9"
    output.store.put("artifacts/config.yaml", f"tracking: {{enabled: true, uri: '{uri}'}}\n".encode())
    output.state.put("mlflow.json", b'{"run_id": "0123"}')
    text = render(collect(str(tmp_path)))
    assert "secret" not in text
    assert "MLflow at http://127.0.0.1:9 does not answer" in text
    assert without_secrets("sqlite:////a/mlflow.db") == "sqlite:////a/mlflow.db"


def test_curves_and_links_come_from_the_tracking_store(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("sar3d", artifact_location=str(tmp_path / "mlartifacts"))
    run = client.create_run(experiment).info.run_id
    for step in range(5):
        client.log_metric(run, "loss", 1.0 / (1 + step), step=step)
        client.log_metric(run, "system/cpu", 1.0, step=step)
    client.log_metric(run, "psnr", 20.0, step=0)
    place = place_of(str(tmp_path), "tracking: {enabled: true, experiment: sar3d}")
    assert place == Place(uri, "sar3d", None)
    found = Runs(place).of("train_vqvae", run)
    assert found is not None
    assert [chart.name for chart in found.charts] == ["loss"]
    assert found.charts[0].points[-1] == (4, pytest.approx(0.2))
    assert set(found.metrics) == {"loss", "psnr"}
    assert found.url == f"http://127.0.0.1:5000/#/experiments/{experiment}/runs/{run}"
    assert place_of(str(tmp_path), "tracking: {enabled: false}") is None


def test_numbers_are_written_for_people() -> None:
    assert [span(s) for s in (None, 0.04, 59.94, 61, 3725)] == ["–", "0.0 s", "59.9 s", "1 min 01 s", "1 h 02 min"]
    assert [size(n) for n in (999, 12_340, 5_200_000, 3_100_000_000)] == ["999 bytes", "12 KB", "5.2 MB", "3.1 GB"]
    points = [(i, float(i)) for i in range(1000)]
    few = thinned(points, 11)
    assert (few[0], few[-1], len(few)) == (points[0], points[-1], 11)
    flat = curve(Chart("flat", [(0, 2.0), (10, 2.0)]))
    assert flat["line"] == "4.0,80.0 236.0,80.0"


def test_small_pictures_are_embedded_as_they_are() -> None:
    made = picture("it", png(), 100)
    assert base64.b64decode(made.source.partition(",")[2]) == png()
    assert picture("it", png(400, 200), 100).width == 100


def test_the_page_in_a_real_browser(tmp_path: Path) -> None:
    program = browser()
    assert catalog(2)[0].name == "orange chair"
    write_generated(tmp_path, 2, text=f"a vase {EVIL}")
    file = Path(report(str(tmp_path), lambda _: None))

    async def steps(page: Page) -> None:
        await page.open(file)
        assert await page.evaluate("document.title") == f"SAR3D · {tmp_path.name}"
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.evaluate("document.getElementById('generated').scrollIntoView({behavior: 'instant'})")
        await page.until("[...document.querySelectorAll('.viewer')].every((v) => v.dataset.state === 'shown')")
        await asyncio.sleep(1)
        first = await page.picture(".viewer")
        colors = {tuple(c) for c in (first[::4, ::4].reshape(-1, 3) // 16).tolist()}
        assert len(colors) > 20, "the object is drawn"
        orange = (first[..., 0].astype(int) - first[..., 2] > 100).mean()
        assert orange > 0.02, "the chair is orange"
        await asyncio.sleep(2)
        assert np.abs((await page.picture(".viewer")).astype(int) - first).mean() > 0.5, "it turns"
        light = (await page.picture("footer")).mean()
        await page.look(dark=True)
        assert (await page.picture("footer")).mean() < light - 100
        await page.evaluate("document.querySelector('.zoom').click()")
        assert await page.evaluate("document.getElementById('large').open")
        await page.evaluate("document.getElementById('large').close()")
        await page.call("Emulation.setDeviceMetricsOverride", width=380, height=800, deviceScaleFactor=1, mobile=False)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "fits a narrow screen"
        assert await page.evaluate("document.title") == f"SAR3D · {tmp_path.name}", "no text of the data ran"
        assert not page.errors
        assert {url.partition(":")[0] for url in page.requests} <= {"file", "blob", "data"}
        assert [url for url in page.requests if url.startswith("file:")] == [file.as_uri()]

    visit(program, steps)
