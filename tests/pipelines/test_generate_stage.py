"""Many prompts become objects: each its own, with its files; bad ones are rows of the failures; nothing is made twice."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import generators
import numpy as np
import pyarrow.parquet as pq
import pytest
import rendered
import torch
import trimesh
from PIL import Image

from pipelines.generate import GenerateConfig, GenerateStage
from pipelines.generating.prompts import file_items, name_of
from pipelines.runtime import runner
from pipelines.runtime.engine import Options
from pipelines.runtime.output import Output
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import StageReport
from pipelines.runtime.store import Store
from sar3d import hub
from sar3d.data.formats.views import read_views
from sar3d.errors import UserError
from sar3d.generate import Sar3D
from sar3d.generate.captioner import Captioner
from sar3d.llm.config import CaptionDecoding

pytestmark = pytest.mark.usefixtures("local_ray")
STAGE = GenerateStage()
EXPORT = [f"generate.export.{name}={value}" for name, value in generators.EXPORT.items()]
EXPORT += ["generate.preset=released", "generate.guidance=4", "generate.caption=false"]


def configure(root: Path | str, *overrides: str) -> Any:
    folder = generators.bundle()
    models = [f"generate.vqvae={folder}/vqvae"]
    models += [f"generate.{kind}_model={folder}/ar_{kind}" for kind in ("text", "image")]
    return rendered.configure(Path(root), *models, *EXPORT, "generate.shard_objects=2", *overrides)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of good and bad prompts."""
    folder = tmp_path_factory.mktemp("prompts")
    pixels = np.zeros((60, 80, 4), np.uint8)
    pixels[20:40, 20:60] = (200, 40, 30, 255)
    (folder / "pictures").mkdir()
    Image.fromarray(pixels).save(folder / "pictures" / "apple.png")
    (folder / "pictures" / "cut.png").write_bytes((folder / "pictures" / "apple.png").read_bytes()[:60])
    entries: list[dict[str, Any]] = [
        {"id": "apple", "text": "a red apple"},
        {"id": "apple-7", "text": "a red apple", "seed": 7},
        {"id": "seen", "image": "pictures/apple.png"},
        {"id": "cut", "image": "pictures/cut.png"},
        {"id": "gone", "image": "pictures/gone.png"},
        {"id": "empty", "text": ""},
        {"id": "long", "text": "word " * 1000},
    ]
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return file


def run(config: Any, log: Any = lambda _: None) -> tuple[StageReport, Output]:
    return rendered.run(STAGE, config, log)


@pytest.fixture(scope="module")
def made(local_ray: Any, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, StageReport, Output]:
    config = configure(tmp_path_factory.mktemp("root"), f"generate.prompts={prompts}")
    return config, *run(config)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generators.captioner(tmp_path_factory.mktemp("captioner"), hub.digest(generators.bundle() / "vqvae"))


@pytest.fixture(scope="module")
def dataset(local_ray: Any, captioner: Path) -> tuple[StageReport, Output, list[str]]:
    """The stage on objects of the dataset, described, and what was said."""
    said: list[str] = []
    words = ["generate.objects=2", "train_vqvae.data.held_out=5", "generate.export.formats=[png]"]
    words += ["generate.caption=true", f"generate.captioner={captioner}", "caption.decoding={max_new_tokens: 4}"]
    config = configure(rendered.root(), *words)
    report, output = run(config, said.append)
    return report, output, said


def test_every_prompt_becomes_an_object_or_a_failure(made: tuple[Any, StageReport, Output]) -> None:
    _, report, output = made
    assert (report.state, report.objects, report.rows, report.failures) == ("done", 7, 3, 4)
    rows = {row["uid"]: row for row in read_rows(output)}
    assert set(rows) == {"apple", "apple-7", "seen"}
    failures = {f["uid"]: (f["error"], f["reason"]) for f in output.failures()}
    errors = {"cut": "bad_picture", "gone": "missing_file", "empty": "empty_text", "long": "text_too_long"}
    assert {uid: error for uid, (error, _) in failures.items()} == errors
    assert all(reason and "\n" not in reason for _, reason in failures.values())
    assert rows["apple"]["tokens"] != rows["apple-7"]["tokens"]


def test_an_object_is_the_one_that_its_prompt_gives_alone(made: tuple[Any, StageReport, Output], prompts: Path) -> None:
    rows = {row["uid"]: row for row in read_rows(made[2])}
    system = Sar3D.from_pretrained(generators.bundle(), device="cpu")
    text = system.generate(text="a red apple", seed=7)[0].tokens.tolist()
    image = system.generate(image=prompts.parent / "pictures" / "apple.png")[0].tokens.tolist()
    assert rows["apple-7"]["tokens"] == text
    assert rows["seen"]["tokens"] == image


def test_the_files_of_each_object_lie_in_its_folder(made: tuple[Any, StageReport, Output]) -> None:
    _, _, output = made
    folder = Path(output.url) / "files"
    assert sorted(p.name for p in folder.iterdir()) == ["apple", "apple-7", "seen"]
    for row in read_rows(output):
        place = folder / row["uid"]
        settings = json.loads((place / "settings.json").read_text())
        assert sorted(p.name for p in place.iterdir()) == settings["files"]
        assert (place / "object.glb").read_bytes() == row["glb"]
        assert len(trimesh.load(place / "object.glb", force="mesh").faces) > 10
        assert settings["seed"] == row["seed"]
        assert settings["models"]["vqvae"] == pq.read_schema(output.files()[0]).metadata[b"vqvae"].decode()
    assert "prompt.png" in json.loads((folder / "seen" / "settings.json").read_text())["files"]
    artifacts = Path(output.url) / "artifacts"
    assert (artifacts / "contact_sheet.png").is_file()
    assert {p.stem for p in (artifacts / "objects").glob("*.glb")} == {"apple", "apple-7", "seen"}


def test_again_nothing_is_made_and_growth_makes_what_is_new(
    made: tuple[Any, StageReport, Output], prompts: Path, tmp_path: Path
) -> None:
    config, report, output = made
    again, _ = run(config)
    assert (again.state, again.fingerprint) == ("reused", report.fingerprint)
    # A longer list, in the same place: what was made before is referred to.
    longer = prompts.with_name("longer.jsonl")
    ship = {"id": "ship", "text": "a wooden ship"}
    longer.write_text(prompts.read_text() + json.dumps(ship) + "\n")
    grown = dataclasses.replace(config, generate=dataclasses.replace(config.generate, prompts=str(longer)))
    more, bigger = run(grown)
    assert (more.state, more.rows, more.failures) == ("done", 4, 4)
    assert more.shards_run == 1
    old, new = ({row["uid"]: row for row in read_rows(o)} for o in (output, bigger))
    assert {uid: new[uid]["settings"] for uid in old} == {uid: row["settings"] for uid, row in old.items()}
    assert (Path(bigger.url) / "files" / "apple" / "object.glb").read_bytes() == old["apple"]["glb"]


def test_what_decides_an_object_decides_the_output(made: tuple[Any, StageReport, Output], prompts: Path) -> None:
    config, report, _ = made

    def foreseen(*overrides: str) -> StageReport:
        changed = configure(config.root, f"generate.prompts={prompts}", *overrides)
        return runner.run(STAGE, changed, Options(dry_run=True), lambda _: None)

    for same in ("generate.batch=1", "generate.unpack=false", "generate.workers=2", "generate.device=cpu"):
        assert foreseen(same).fingerprint == report.fingerprint, same
    different = ("generate.preset=greedy", "generate.guidance=3", "generate.seed=1", "generate.export.faces=100")
    prints = {foreseen(change).fingerprint for change in different}
    assert len(prints | {report.fingerprint}) == 5


def test_objects_of_the_dataset_stand_beside_what_they_should_look_like(
    dataset: tuple[StageReport, Output, list[str]],
) -> None:
    report, output, said = dataset
    assert (report.rows, report.failures) == (4, 0)
    rows = list(read_rows(output))
    captions = {row["uid"]: row["captions"] for row in read_rows(rendered.downloads(configure(rendered.root())))}
    assert sorted(row["kind"] for row in rows) == ["image", "image", "text", "text"]
    assert len({row["object"] for row in rows}) == 2
    encoded: dict[str, set[int]] = {}
    for group in read_views(rendered.views(configure(rendered.root())).files()):
        encoded.setdefault(group["uid"], set()).update(group["view_ids"][:6])
    for row in rows:
        prompt = json.loads(row["settings"])["prompt"]
        if row["kind"] == "text":
            assert prompt["text"] == captions[row["object"]][0]
        else:
            view = int(prompt["file"].split()[1])
            assert view not in encoded[row["object"]], "the prompt is a view that the tokenizer was never given"
        comparison = Image.open(io.BytesIO(row["comparison"]))
        assert comparison.size == (4 * rendered.RESOLUTION, 2 * rendered.RESOLUTION)
        true = np.asarray(comparison)[: rendered.RESOLUTION]
        assert true.std() > 5, "the upper line shows the object"
    sheet = Image.open(io.BytesIO(Path(output.url, "artifacts", "contact_sheet.png").read_bytes()))
    assert sheet.width > 500
    assert any("files of each object" in line for line in said)


def test_a_captioner_describes_each_object_by_its_tokens_alone(
    dataset: tuple[StageReport, Output, list[str]], made: tuple[Any, StageReport, Output], captioner: Path
) -> None:
    words = Captioner.from_pretrained(captioner)
    for row in read_rows(dataset[1]):
        (expected,) = words.caption(torch.tensor(row["tokens"]), decoding=CaptionDecoding(max_new_tokens=4))
        assert row["caption"] == json.loads(row["settings"])["caption"] == expected
        assert row["caption"]
    for row in read_rows(made[2]):
        assert row["caption"] is None
        assert "caption" not in json.loads(row["settings"])


def test_a_prompt_that_is_a_view_shows_that_view(dataset: tuple[StageReport, Output, list[str]]) -> None:
    stored: dict[tuple[str, int], bytes] = {}
    for row in read_views(rendered.views(configure(rendered.root())).files()):
        stored |= {(row["uid"], view): png for view, png in zip(row["view_ids"], row["rgb"], strict=True)}
    seen = [row for row in read_rows(dataset[1]) if row["kind"] == "image"]
    assert seen
    for row in seen:
        view = int(json.loads(row["settings"])["prompt"]["file"].split()[1])
        true = np.asarray(Image.open(io.BytesIO(stored[row["object"], view])))
        assert (np.asarray(Image.open(io.BytesIO(row["prompt"]))) == true).all()
        upper_left = np.asarray(Image.open(io.BytesIO(row["comparison"])))[: len(true), : len(true)]
        assert (upper_left == true).all()


def test_a_field_without_a_surface_is_a_failure_with_a_reason(local_ray: Any, prompts: Path, tmp_path: Path) -> None:
    words = (f"generate.prompts={prompts}", "generate.export.level=10000", "max_failure_rate=1")
    report, output = run(configure(tmp_path, *words, "generate.export.formats=[glb]", "tracking.enabled=false"))
    assert (report.rows, report.failures) == (0, 7)
    kinds = {f["uid"]: f["error"] for f in output.failures()}
    assert kinds["apple"] == kinds["seen"] == "empty_field"
    assert STAGE.artifacts(_context(output), output, lambda _: None) == {}


def _context(output: Output) -> Any:
    class Context:
        config = GenerateConfig()

    return Context()


def test_models_that_do_not_belong_together_stop_the_stage_before_it_begins(tmp_path: Path, prompts: Path) -> None:
    foreign = generators.captioner(tmp_path / "foreign", "0" * 64)
    cases = [
        (f"generate.vqvae={rendered.model(7)}", "was trained on the tokens of the VQVAE"),
        (f"generate.text_model={generators.bundle()}/ar_image", "takes image conditions, not text"),
        (f"generate.image_model={generators.bundle()}/vqvae", "of kind vqvae"),
        (
            f"generate.captioner={foreign}",
            "the captioner at .* was trained on the tokens of the VQVAE 0000000000000000",
        ),
        (f"generate.captioner={generators.bundle()}/vqvae", "of kind vqvae"),
        ("generate.image_model=/none", "there is no folder /none with a model"),
        ("generate.prompts=/none.jsonl", "there is no file of prompts /none.jsonl"),
    ]
    for word, sentence in cases:
        described = ["generate.caption=true"] if "captioner" in word else []
        with pytest.raises(UserError, match=sentence):
            run(configure(tmp_path, f"generate.prompts={prompts}", word, *described))
    with pytest.raises(UserError, match="reads the output of train_ar, which has not been run"):
        run(configure(tmp_path, f"generate.prompts={prompts}", "generate.text_model="))
    assert not list(Path(tmp_path, "generate").glob("[0-9a-f]*")) if Path(tmp_path, "generate").exists() else True


def test_settings_that_are_wrong_are_named(tmp_path: Path) -> None:
    for word, sentence in (
        ("generate.preset=best", "no decoding named 'best'"),
        ("generate.captioner=/somewhere", "set generate.caption=true as well"),
        ("generate.top_p=2", "top_p of decoding"),
        ("generate.kinds=[]", "generate.kinds"),
        ("generate.kinds=[sound]", "generate.kinds.0='sound'"),
        ("generate.objects=0", "generate.objects=0"),
        ("generate.export.grid=3", "grid is 3"),
        ("generate.export.formats=[fbx]", "fbx"),
        ("generate.prompt=x", "did you mean generate.prompts"),
    ):
        with pytest.raises(UserError, match=sentence):
            configure(tmp_path, word)


def items(folder: Path, name: str, text: str, **options: Any) -> list[dict[str, Any]]:
    (folder / name).write_text(text)
    return list(file_items(str(folder / name), options.get("kinds", ("text", "image")), options.get("seed", 0)))


def test_prompts_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    expected = [
        {"uid": "a", "kind": "text", "text": "a red apple", "seed": 3},
        {"uid": "b", "kind": "text", "text": "a ship, of wood", "seed": 5},
    ]
    files = {
        "p.jsonl": '{"id": "a", "text": "a red apple"}\n\n{"id": "b", "text": "a ship, of wood", "seed": 5}\n',
        "p.json": '[{"id": "a", "text": "a red apple"}, {"id": "b", "text": "a ship, of wood", "seed": 5}]',
        "p.yaml": "- {id: a, text: a red apple}\n- id: b\n  text: a ship, of wood\n  seed: 5\n",
        "q.yaml": "prompts:\n- {id: a, text: a red apple}\n- {id: b, text: 'a ship, of wood', seed: 5}\n",
        "p.csv": 'id,text,image,seed\na,a red apple,,\nb,"a ship, of wood",,5\n',
    }
    for name, text in files.items():
        assert items(tmp_path, name, text, seed=3) == expected, name


def test_prompts_without_an_id_are_named_after_what_they_say(tmp_path: Path) -> None:
    text = '{"text": "a red apple"}\n{"text": "a red apple", "seed": 1}\n{"image": "x/Cup of tea.png"}\n'
    found = [item["uid"] for item in items(tmp_path, "p.jsonl", text)]
    assert found[0].startswith("a-red-apple")
    assert found[2].lower().startswith("cup-of-tea")
    assert len(set(found)) == 3
    assert all(uid == name_of(uid) for uid in found)


@pytest.mark.parametrize(
    ("name", "text", "first", "second"),
    [
        ("p.jsonl", '{"image": "a/0.png"}\n\n{"image": "b/0.png"}\n', "line 1", "line 3"),
        ("p.csv", "image\na/0.png\nb/0.png\n", "line 2", "line 3"),
        ("p.yaml", "- {image: a/0.png}\n- {text: x}\n- {image: b/0.png}\n", "prompt 1", "prompt 3"),
        ("p.json", '[{"text": "a cup"}, {"text": "A  cup"}]', "prompt 1", "prompt 2"),
        ("p.jsonl", '{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}\n', "line 1", "line 2"),
    ],
)
def test_prompts_that_would_make_one_object_are_both_named(
    tmp_path: Path, name: str, text: str, first: str, second: str
) -> None:
    with pytest.raises(UserError, match=f"{first} and {second} of .*the key id"):
        items(tmp_path, name, text)


def test_a_changed_picture_is_another_item(tmp_path: Path) -> None:
    def listed(color: str) -> dict[str, Any]:
        Image.new("RGB", (32, 32), color).save(tmp_path / "x.png")
        (item,) = items(tmp_path, "p.jsonl", '{"id": "x", "image": "x.png"}')
        return item

    first, second = listed("red"), listed("blue")
    assert first["_path"] == second["_path"] == str(tmp_path / "x.png")
    assert first["sha256"] != second["sha256"]


def test_files_that_hold_no_prompts_are_named_with_the_place(tmp_path: Path) -> None:
    cases = {
        "p.txt": ("a red apple", "of no kind that is read"),
        "a.jsonl": ('{"text": "x"}\n{"text": ', "line 2 is no JSON"),
        "b.jsonl": ("[1, 2]", "line 1 of .* is no record"),
        "c.yaml": ("text: an apple", "are no list"),
        "d.yaml": ("- {text: x, image: y}", "either a text or an image"),
        "e.yaml": ("- {id: x}", "either a text or an image"),
        "f.yaml": ("- {text: x, sede: 4}", "has 'sede'"),
        "g.yaml": ("- {text: x, seed: -4}", "the seed -4"),
        "h.yaml": ("- {text: x, seed: many}", "the seed 'many'"),
        "i.yaml": ("- {text: x, id: ../../etc}", "'../../etc'"),
        "j.yaml": ("- {text: 5}", "put it in quotes"),
        "k.yaml": ("- {text: [", "cannot be read"),
        "l.json": ("{", "cannot be read"),
    }
    for name, (text, sentence) in cases.items():
        with pytest.raises(UserError, match=sentence) as raised:
            items(tmp_path, name, text)
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"of the kind image, which generate\.kinds leaves out"):
        items(tmp_path, "m.yaml", "- {image: x.png}", kinds=("text",))


def test_names_are_safe_and_different_for_different_things() -> None:
    given = ["apple", "a/b", "a b", "a-b", "..", "", "ü", "x" * 500, "x" * 501, ".hidden", "A_1.2-3"]
    names = [name_of(text) for text in given]
    assert len(set(names)) == len(names)
    assert [name_of(name) for name in names] == names
    assert all(0 < len(name) <= 80 and "/" not in name and not name.startswith(".") for name in names)


@pytest.fixture
def driver(tmp_path: Path, prompts: Path) -> Iterator[subprocess.Popen[str]]:
    words = [
        f"root={tmp_path / 'root'}",
        f"generate.prompts={prompts}",
        "tracking.enabled=false",
        "generate.shard_objects=1",
    ]
    folder = generators.bundle()
    words += [f"generate.vqvae={folder}/vqvae", *(f"generate.{k}_model={folder}/ar_{k}" for k in ("text", "image"))]
    command = [sys.executable, "-m", "pipelines.generate", "--config", "configs/demo.yaml", "max_failure_rate=1"]
    command += ["cluster.address=local", "cluster.cpus=2", *words, *EXPORT]
    process = subprocess.Popen(
        command,
        cwd=rendered.REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, 9)
    process.wait()


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(driver: subprocess.Popen[str], tmp_path: Path, prompts: Path) -> None:
    deadline = time.monotonic() + 200
    store = Store(str(tmp_path / "root" / "generate"))
    while time.monotonic() < deadline and not any("/records/" in name for name in store.names()):
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.1)
    os.killpg(driver.pid, 9)
    driver.wait()
    (state,) = Path(store.url).glob("[0-9a-f]*/_state")
    before = {p.name: p.read_bytes() for p in (state / "records").glob("part-*.json")}
    assert before
    words = (f"generate.prompts={prompts}", "generate.shard_objects=1", "max_failure_rate=1")
    report, output = run(configure(tmp_path / "root", *words))
    assert (report.rows, report.failures, report.shards_reused) == (3, 4, len(before))
    assert all((state / "records" / name).read_bytes() == data for name, data in before.items())
    assert len(list(Path(output.url, "files").iterdir())) == 3
