"""Captions and views become conditions: the encoders' own features, in half precision, with the empty ones beside."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rendered
from PIL import Image

from pipelines.cache_conditions import CacheConditionsConfig, CacheConditionsStage
from pipelines.caching.condition_encoder import condition_view, condition_views, encode_items, open_condition_encoder
from pipelines.caching.view_objects import view_items
from pipelines.runtime import runner
from pipelines.runtime.output import Failure
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import Context
from sar3d.conditions import load_encoder
from sar3d.conditions.condition import Condition
from sar3d.data.formats.conditions import check_conditions, decode_condition
from sar3d.data.formats.views import read_views
from sar3d.errors import UserError

pytestmark = pytest.mark.usefixtures("local_ray")
STAGE = CacheConditionsStage()
OWN = "cache_conditions.image_views=2"
"""Conditions that no other test makes under the common root."""


@pytest.fixture(scope="module")
def encoded(local_ray: Any) -> tuple[Any, Any, list[str]]:
    """Report, output and what was said of the stage on the rendered objects."""
    said: list[str] = []
    config = rendered.configure(rendered.root(), "cache_conditions.shard_objects=4", OWN)
    return *rendered.run(STAGE, config, said.append), said


@pytest.fixture(scope="module")
def conditions(encoded: tuple[Any, Any, list[str]]) -> list[Condition]:
    return [decode_condition(row) for row in read_rows(encoded[1])]


def stored_views() -> list[dict[str, Any]]:
    return list(read_views(rendered.views(rendered.configure(rendered.root())).files()))


def close(made: np.ndarray, expected: Any) -> bool:
    return bool(np.allclose(made.astype(np.float32), expected.numpy(), rtol=2e-3, atol=2e-3))


def test_every_caption_and_view_group_has_its_condition(
    encoded: tuple[Any, Any, list[str]], conditions: list[Condition]
) -> None:
    report, output, said = encoded
    assert (report.state, report.failures) == ("done", 0)
    check_conditions(pq.read_schema(output.files()[0]), "conditions")
    config = rendered.configure(rendered.root(), OWN)
    objects = list(read_rows(rendered.downloads(config)))
    texts = {(c.uid, c.index) for c in conditions if c.kind == "text" and c.uid}
    assert texts == {(o["uid"], i) for o in objects for i in range(len(o["captions"]))}
    images = {(c.uid, c.group, c.index) for c in conditions if c.kind == "image" and c.uid}
    places = {r["group"]: condition_views(r["group"], config.cache_conditions.image_views) for r in stored_views()}
    assert images == {(r["uid"], r["group"], r["view_ids"][p]) for r in stored_views() for p in places[r["group"]]}
    assert any(f"{len(texts) + len(images)} conditions" in line for line in said)
    assert not any("no caption" in line for line in said)
    assert all(c.sha256 == {o["uid"]: o["sha256"] for o in objects}[c.uid] for c in conditions if c.uid)


def test_features_are_the_encoders(conditions: list[Condition]) -> None:
    text, image = load_encoder("minilm"), load_encoder("efficientnet-lite0")
    captions = {o["uid"]: o["captions"] for o in read_rows(rendered.downloads(rendered.configure(rendered.root())))}
    pictures = {(r["uid"], r["group"]): dict(zip(r["view_ids"], r["rgb"], strict=True)) for r in stored_views()}
    for condition in [c for c in conditions if c.uid][::7]:
        if condition.kind == "text":
            made = text.encode([captions[condition.uid][condition.index]])
            assert condition.encoder == text.id
        else:
            png = pictures[condition.uid, condition.group][condition.index]
            made = image.encode(np.asarray(Image.open(io.BytesIO(png)))[None])
            assert condition.encoder == image.id
        assert condition.tokens.dtype == np.float16
        assert close(condition.tokens, made.tokens[0])
        assert close(condition.pooled, made.pooled[0])


def test_the_published_view_is_one_of_the_first_half_and_never_the_pole() -> None:
    assert [condition_view(group) for group in range(6)] == [1, 2, 3, 4, 1, 2]


def test_more_views_begin_with_the_published_one_and_leave_out_the_pole() -> None:
    assert condition_views(6, 1) == [3]
    assert condition_views(6, 5) == [3, 4, 5, 1, 2]
    with pytest.raises(UserError, match=r"cache_conditions\.image_views=6 is wrong: it is a number from 1 to 5"):
        CacheConditionsConfig(image_views=6)


def test_empty_conditions_lie_beside_the_others(
    encoded: tuple[Any, Any, list[str]], conditions: list[Condition]
) -> None:
    for kind, name in (("text", "minilm"), ("image", "efficientnet-lite0")):
        (empty,) = [c for c in conditions if c.kind == kind and not c.uid]
        expected = load_encoder(name).empty()
        assert close(empty.tokens, expected.tokens[0])
        stored = np.load(io.BytesIO(encoded[1].store.read(f"artifacts/empty_{kind}.npz")))
        assert np.array_equal(stored["tokens"], empty.tokens)
        assert np.array_equal(stored["pooled"], empty.pooled)


def test_conditions_do_not_depend_on_what_shares_the_batch() -> None:
    items = [
        {**i, "uid": f"{i['uid']}/image", "kind": "image"}
        for i in view_items(rendered.views(rendered.configure(rendered.root())))
    ]
    texts = [{"uid": f"{i}/text", "kind": "text", "sha256": "", "captions": ["a cup", "b " * i]} for i in range(1, 4)]
    worker = open_condition_encoder({"text": ("minilm", ""), "image": ("efficientnet-lite0", "")}, 0, 1, 3)

    def rows(chosen: list[Any]) -> dict[Any, bytes]:
        made = [row for one in encode_items(worker, chosen) for row in one.rows]
        return {(r["uid"], r["group"], r["caption_id"]): r["tokens"] + r["pooled"] for r in made}

    together = rows([*texts, *items[:3]])
    apart = [rows([item]) for item in reversed([*texts, *items[:3]])]
    assert {key: value for one in apart for key, value in one.items()} == together


def test_objects_without_captions_are_counted_not_failed(tmp_path: Path) -> None:
    from sar3d.procedural import build_glb, catalog

    (tmp_path / "objects").mkdir()
    for made in catalog(2):
        (tmp_path / "objects" / f"{made.uid}.glb").write_bytes(build_glb(made.uid))
    words = [
        f"download.directory.path={tmp_path / 'objects'}",
        "download.source=directory",
        "cache_conditions.image=none",
    ]
    config = rendered.configure(tmp_path / "root", *words)
    runner.run(rendered.STAGES["download"], config, log=lambda _: None)
    said: list[str] = []
    report, output = rendered.run(STAGE, config, said.append)
    assert (report.failures, [r["uid"] for r in read_rows(output)]) == (0, [""])
    assert any("2 of 2 objects have no caption and get no text condition" in line for line in said)


def test_a_view_that_cannot_be_read_fails_its_object_alone(tmp_path: Path) -> None:
    items = list(view_items(rendered.views(rendered.configure(rendered.root()))))[:2]
    table = pq.read_table(items[0]["_file"])
    rows = table.to_pylist()
    rows[2]["rgb"][3] = b"no picture"
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), tmp_path / "views.parquet")
    config = CacheConditionsConfig(text="none", image="efficientnet-lite0")
    worker = open_condition_encoder(config.encoders(), 0, 1, None)
    shard = [
        {
            **i,
            "uid": f"{i['uid']}/image",
            "kind": "image",
            "encoder": worker.ids["image"],
            "_file": str(tmp_path / "views.parquet"),
        }
        for i in items
    ]
    made = list(STAGE.process(Context(config, state=worker), shard))
    assert isinstance(made[0], Failure)
    assert (made[0].uid, made[0].error) == (shard[0]["uid"], "bad_row")
    assert [(r["uid"], r["group"]) for r in made[1:] if not isinstance(r, Failure)] == [
        (items[1]["uid"], g) for g in range(4)
    ]


def test_missing_weights_are_one_sentence_that_names_the_setting() -> None:
    config = rendered.configure(rendered.root(), "cache_conditions.text=clip-text")
    with pytest.raises(
        UserError, match=r"weights of clip-text \(openai/clip-vit-large-patch14\) .* set cache_conditions.text_weights"
    ):
        rendered.run(STAGE, config)


def test_nothing_to_encode_is_refused() -> None:
    with pytest.raises(UserError, match="text and image are both none"):
        rendered.configure(rendered.root(), "cache_conditions.text=none", "cache_conditions.image=none")
