"""Views become codes: the model's own, whatever stands beside them, and nothing of another model or size."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import rendered
import torch

from pipelines.cache_tokens import CacheTokensConfig, CacheTokensStage
from pipelines.caching.batches import in_batches
from pipelines.caching.token_encoder import TokenEncoder, encode_objects, open_token_encoder
from pipelines.caching.view_objects import read_objects, view_items
from pipelines.runtime import runner
from pipelines.runtime.engine import model_of, pointer
from pipelines.runtime.models import exported
from pipelines.runtime.output import Failure, Output, outputs
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import Context
from pipelines.runtime.store import Store
from sar3d import hub
from sar3d.data.formats.tokens import decode_tokens, tokens_info
from sar3d.data.formats.views import decode_row, read_views
from sar3d.data.loading.view_rows import ENCODER_COLUMNS
from sar3d.data.loading.view_tensors import encoder_input
from sar3d.errors import UserError
from sar3d.prefetch import mapped, prefetched
from sar3d.vqvae.quantizer import unpack

pytestmark = pytest.mark.usefixtures("local_ray")
STAGE = CacheTokensStage()


@pytest.fixture(scope="module")
def token_encoder() -> TokenEncoder:
    return open_token_encoder(str(rendered.model()), gpus=0, cpus=1, batch=None)


@pytest.fixture(scope="module")
def encoded(local_ray: Any) -> tuple[Any, Any]:
    """Report and output of the stage on the rendered objects."""
    return rendered.run(STAGE, rendered.configure(rendered.root()))


def test_the_cache_holds_the_codes_that_the_model_gives_each_view_group(encoded: tuple[Any, Any]) -> None:
    report, output = encoded
    assert (report.objects, report.failures) == (rendered.OBJECTS, 0)  # another test may have made them before
    info = tokens_info(pq.read_schema(output.files()[0]), "codes")
    assert (info.vqvae, info.length, info.codebook_size) == (hub.digest(rendered.model()), 2040, 1024)
    model = hub.from_pretrained(rendered.model())
    found = [decode_tokens(row, info) for row in read_rows(output)]
    stored = list(read_views(rendered.views(rendered.configure(rendered.root())).files()))
    assert [(t.uid, t.sha256, t.group) for t in found] == [(r["uid"], r["sha256"], r["group"]) for r in stored]
    for tokens, row in zip(found[::3], stored[::3], strict=True):
        inputs = encoder_input(decode_row(row), range(6))
        expected = model.tokens(inputs[None])[0].numpy()
        assert (tokens.tokens == expected).all(), f"group {tokens.group} of {tokens.uid}"


def test_the_cached_codes_regenerate_the_decoder_input_exactly(encoded: tuple[Any, Any]) -> None:
    model = hub.from_pretrained(rendered.model())
    views = rendered.views(rendered.configure(rendered.root()))
    for tokens, row in zip(read_rows(encoded[1]), list(read_views(views.files()))[:4], strict=False):
        with torch.no_grad():
            latent = model.latent(encoder_input(decode_row(row), range(6))[None])
            _, f_hat = model.quantizer.encode_with_f_hat(latent)
            again = model.quantizer.f_hat(unpack(torch.tensor(tokens["codes"])[None], model.config.quantizer.scales))
        assert torch.equal(again, f_hat)


@pytest.mark.parametrize("batch", [1, 3])
def test_codes_do_not_depend_on_what_shares_the_batch(token_encoder: TokenEncoder, batch: int) -> None:
    token_encoder = dataclasses.replace(token_encoder, batch=batch)
    items = list(view_items(rendered.views(rendered.configure(rendered.root()))))

    def tokens(chosen: list[Any]) -> dict[tuple[str, int], bytes]:
        made = encode_objects(token_encoder, read_objects(chosen, ENCODER_COLUMNS))
        return {(g.uid, g.group): c.tobytes() for m in made for g, c in zip(m.groups, m.tokens, strict=True)}

    together = tokens(items)
    assert len(together) == 4 * rendered.OBJECTS
    apart = [tokens([item]) for item in reversed(items)]
    assert {key: value for one in apart for key, value in one.items()} == together


def test_codes_do_not_depend_on_threads(token_encoder: TokenEncoder) -> None:
    items = list(view_items(rendered.views(rendered.configure(rendered.root()))))[:2]
    found = []
    for threads, helpers in ((1, 0), (2, 2)):
        torch.set_num_threads(threads)
        made = encode_objects(dataclasses.replace(token_encoder, helpers=helpers), read_objects(items, ENCODER_COLUMNS))
        found.append([c.tobytes() for m in made for c in m.tokens])
    assert found[0] == found[1]


def test_the_same_weights_elsewhere_are_the_same_cache_and_others_are_not(encoded: Any, tmp_path: Path) -> None:
    shutil.copytree(rendered.model(), tmp_path / "copy")
    again, _ = rendered.run(STAGE, rendered.configure(rendered.root(), f"cache_tokens.vqvae={tmp_path / 'copy'}"))
    assert (again.state, again.fingerprint) == ("reused", encoded[0].fingerprint)
    other, output = rendered.run(STAGE, rendered.configure(rendered.root(), f"cache_tokens.vqvae={rendered.model(1)}"))
    assert (other.state, other.shards_reused) == ("done", 0)
    assert tokens_info(pq.read_schema(output.files()[0]), "codes").vqvae == hub.digest(rendered.model(1))
    with pytest.raises(AssertionError):
        assert list(read_rows(output)) == list(read_rows(encoded[1]))


def test_views_of_another_resolution_are_one_sentence_before_anything_starts(tmp_path: Path) -> None:
    config = rendered.configure(tmp_path, "download.procedural.count=1", "render.resolution=32", "render.views=6")
    for name in ("download", "render"):
        runner.run(rendered.STAGES[name], config, log=lambda _: None)
    with pytest.raises(UserError, match=r"views of render are 32 pixels wide and the VQVAE takes 64: .*resolution=64"):
        rendered.run(STAGE, config)
    assert not list(outputs(str(tmp_path), "cache_tokens"))


def _damage(folder: Path, what: str) -> None:
    if what == "gone":
        shutil.rmtree(folder)
    elif what == "truncated":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    elif what == "another kind":
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text.replace('"kind": "vqvae"', '"kind": "ar"'))


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("gone", "there is no model at .*: give the folder of an exported vqvae|there is no folder"),
        ("truncated", "is truncated or no safetensors file"),
        ("another kind", "of kind '?ar'?"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_sentence(tmp_path: Path, what: str, sentence: str) -> None:
    shutil.copytree(rendered.model(), tmp_path / "model")
    _damage(tmp_path / "model", what)
    with pytest.raises(UserError, match=sentence):
        rendered.run(STAGE, rendered.configure(rendered.root(), f"cache_tokens.vqvae={tmp_path / 'model'}"))


def _process(token_encoder: TokenEncoder, items: list[Any]) -> list[Any]:
    context = Context(CacheTokensConfig(), models={"vqvae": exported(str(rendered.model()))}, state=token_encoder)
    return list(STAGE.process(context, [{**item, "vqvae": item.get("vqvae", token_encoder.digest)} for item in items]))


def test_a_broken_object_is_a_failure_and_harms_no_other(token_encoder: TokenEncoder, tmp_path: Path) -> None:
    items = list(view_items(rendered.views(rendered.configure(rendered.root()))))[:2]
    table = pq.read_table(items[0]["_file"])
    rows = table.to_pylist()
    rows[1]["depth"][2] = b"no picture"
    rows[5]["view_ids"] = rows[5]["view_ids"][:4]
    for name in ("rgb", "alpha", "depth", "normal", "c2w", "intrinsics"):
        rows[5][name] = rows[5][name][:4]
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), tmp_path / "views.parquet", row_group_size=3)
    broken = [{**item, "_file": str(tmp_path / "views.parquet")} for item in items]
    made = _process(token_encoder, [broken[0], items[0] | {"uid": "again"}, broken[1]])
    failed = [m for m in made if isinstance(m, Failure)]
    assert [(f.uid, f.error) for f in failed] == [(items[0]["uid"], "bad_row"), (items[1]["uid"], "too_few_views")]
    assert [(row["uid"], row["group"]) for row in made if not isinstance(row, Failure)] == [
        (items[0]["uid"], group) for group in range(4)
    ]
    alone = _process(token_encoder, items[:1])
    assert all((m["codes"] == a["codes"]).all() for m, a in zip(made[1:5], alone, strict=True))


def test_a_model_that_changes_under_a_running_stage_stops_it(token_encoder: TokenEncoder) -> None:
    item = next(view_items(rendered.views(rendered.configure(rendered.root()))))
    with pytest.raises(UserError, match="has changed since cache_tokens began: run the same command again"):
        _process(token_encoder, [{**item, "vqvae": "another"}])


def test_new_objects_alone_are_encoded(encoded: Any) -> None:
    config = rendered.configure(rendered.root(), f"download.procedural.count={rendered.OBJECTS + 1}")
    for name in ("download", "render"):
        runner.run(rendered.STAGES[name], config, log=lambda _: None)
    grown, output = rendered.run(STAGE, config)
    # Five objects in shards of two: the third render shard stays, so do all three shards of codes.
    assert (grown.objects, grown.shards_run) == (rendered.OBJECTS + 1, 1)
    assert len({(r["uid"], r["group"]) for r in read_rows(output)}) == 4 * (rendered.OBJECTS + 1)


def test_a_model_on_an_object_store_is_fetched_anew_when_it_changes(s3_root: str) -> None:
    fs, place = fsspec.core.url_to_fs(s3_root)

    def put(seed: int) -> None:
        for file in rendered.model(seed).iterdir():
            fs.put_file(str(file), f"{place}/model/{file.name}")

    put(0)
    assert exported(f"{s3_root}/model", "vqvae").digest == hub.digest(rendered.model())
    assert exported(s3_root, "vqvae").url == f"{s3_root}/model", "a training output holds its model"
    assert open_token_encoder(f"{s3_root}/model", 0, 1, None).digest == hub.digest(rendered.model())
    put(1)
    assert exported(f"{s3_root}/model", "vqvae").digest == hub.digest(rendered.model(1))
    with pytest.raises(UserError, match="there is no model at"):
        exported(f"{s3_root}/nothing", "vqvae")


def test_imported_chunks_are_encoded_group_by_group(shared: Path, token_encoder: TokenEncoder, tmp_path: Path) -> None:
    chunks = shared / "goldens" / "chunk_synth"
    if not chunks.is_dir():
        pytest.skip("the folder ../shared/goldens/chunk_synth is not here")
    words = [f"import_chunks.path={chunks}", "cache_tokens.views=import_chunks"]
    config = rendered.configure(tmp_path, *words)
    _, views = rendered.run(rendered.STAGES["import_chunks"], config)
    items = list(view_items(views))
    rows = list(read_rows(views, ["uid", "group"]))
    assert sum(item["_rows"][1] for item in items) == len(rows)
    assert len({item["uid"] for item in items}) == len(items)
    with pytest.raises(UserError, match="views of import_chunks are 256 pixels wide and the VQVAE takes 64"):
        rendered.run(STAGE, config)


def test_without_a_model_setting_it_is_that_of_the_training_stage(tmp_path: Path) -> None:
    output = Output(str(tmp_path), "train_vqvae", "0" * 16)
    shutil.copytree(rendered.model(), output.store.path("model"))
    output.succeed(0.0, steps=1_000_000, model=hub.digest(rendered.model()))
    store, config = Store(str(tmp_path)).at("train_vqvae"), rendered.configure(tmp_path, "cache_tokens.vqvae=")
    store.put(pointer(rendered.STAGES["train_vqvae"], config), json.dumps({"fingerprint": output.fingerprint}).encode())
    given = rendered.configure(tmp_path, "cache_tokens.vqvae=somewhere", "cache_tokens.views=import_chunks")
    assert [stage.name for stage in config.depends_on(STAGE)] == ["render", "train_vqvae"]
    assert [stage.name for stage in given.depends_on(STAGE)] == ["import_chunks"]
    found = model_of(config, STAGE, "vqvae")
    assert (found.url, found.digest) == (f"{output.url}/model", hub.digest(rendered.model()))
    assert open_token_encoder(found.url, 0, 1, None).digest == found.digest


def test_the_benchmark_runs() -> None:
    command = [sys.executable, str(rendered.REPOSITORY / "benchmarks" / "bench_cache_tokens.py"), "--quick"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(
        r"CPU time of a group: stage [\d.]+ ms, [\d.]+ ms of it in the model: overhead [\d.]+ %; bare model", said
    )


def test_batches_have_one_size_and_keep_their_owners() -> None:
    sizes = []

    def double(batch: list[int]) -> list[int]:
        sizes.append(len(batch))
        return [2 * value for value in batch]

    loaded = [("a", [1, 2, 3, 4, 5]), ("b", []), ("c", [6]), ("d", [7, 8]), ("e", [])]
    for depth in (0, 2):
        found = list(in_batches(iter(loaded), 3, list, double, depth))
        assert found == [(key, [2 * v for v in values]) for key, values in loaded]
    assert set(sizes) == {3}
    assert list(in_batches(iter([("x", [])]), 3, list, double, 2)) == [("x", [])]


def test_what_a_thread_raises_is_raised_where_it_is_used() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk has gone")

    with pytest.raises(OSError, match="the disk has gone"):
        list(prefetched(broken(), 2))
    assert list(mapped(lambda i: i * i, range(20), 3)) == [i * i for i in range(20)]
    before = threading.active_count()
    ahead = prefetched(iter(range(1000)), 2)
    assert next(ahead) == 0
    ahead.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before, "a consumer that stops leaves no thread behind"
    assert np.array_equal(list(prefetched(iter(range(100)), 4)), range(100))
