"""Training samples from views: complete, decoded right, the same for any number of workers, each byte fetched once."""

import itertools
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.datasets.view_dataset import ViewDataset, ViewSample
from sar3d.data.formats.chunks import list_chunks, read_chunk
from sar3d.data.formats.views import Views, decode_row, read_views, split_of, views_schema
from sar3d.data.held_out import HeldOut
from sar3d.data.loading.row_groups import ParquetFiles
from sar3d.data.loading.view_tensors import Targets, encoder_input, targets
from sar3d.data.loading.withheld import Withheld
from sar3d.errors import NothingSelectedError, ObjectError, UserError
from sar3d.seeds import SampleKey

Step = tuple[int, list[tuple[SampleKey, ViewSample]]]
WriteViews = Callable[..., list[str]]
PLAIN = {"val": 0.0, "test": 0.0}


def rows_of(files: list[str]) -> dict[tuple[str, int], Views]:
    return {(row["uid"], row["group"]): decode_row(row) for row in read_views(files)}


def take(steps: Iterator[Step], count: int) -> list[Step]:
    taken = list(itertools.islice(steps, count))
    steps.close()  # type: ignore[attr-defined]
    return taken


def same(one: Targets, two: Targets) -> bool:
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(vars(one).values(), vars(two).values(), strict=True))


def named(steps: list[Step]) -> list[tuple[int, int, str, int]]:
    return [(step, key.index, sample.uid, sample.group) for step, batch in steps for key, sample in batch]


@pytest.mark.parametrize("cache", [True, False])
def test_a_group_is_encoded_by_its_first_six_views_and_compared_with_all(views24: list[str], cache: bool) -> None:
    rows = rows_of(views24)
    dataset = ViewDataset(views24, 16, ViewDataConfig(cache_decoded=cache, **PLAIN), split="all")
    assert dataset.size == 96
    samples = list(dataset.samples(groups=None))
    assert {(s.uid, s.group) for s in samples} == set(rows)
    for sample in samples[::7]:
        views = rows[sample.uid, sample.group]
        assert sample.sha256 == views.sha256
        assert sample.encoder_ids == tuple(views.view_ids[:6])
        assert sample.supervision_ids == tuple(views.view_ids)
        assert torch.allclose(sample.encoder_input, encoder_input(views), atol=1e-6)
        assert same(sample.supervision, targets(views, range(12)))


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("rows_per_group", [8, 5])
def test_an_object_is_compared_with_each_of_its_views_once(
    write_views: WriteViews, cache: bool, rows_per_group: int
) -> None:
    files = write_views(5, files=2, group_rows=rows_per_group)
    rows = rows_of(files)
    config = ViewDataConfig(unit="object", cache_decoded=cache, **PLAIN)
    for sample in ViewDataset(files, 16, config, split="all").samples(groups=None):
        groups = [views for (uid, _), views in rows.items() if uid == sample.uid]
        assert sorted(sample.supervision_ids) == sorted({int(v) for views in groups for v in views.view_ids})
        assert len(sample.supervision_ids) == 38
        where = {int(v): (views, i) for views in groups for i, v in enumerate(views.view_ids)}
        for i, view in enumerate(sample.supervision_ids[::9]):
            views, place = where[view]
            assert torch.allclose(sample.supervision.image[9 * i], targets(views, [place]).image[0])


def test_the_published_samples_swap_the_halves_of_each_row(views24: list[str]) -> None:
    dataset = ViewDataset(views24, 16, ViewDataConfig(unit="published", **PLAIN), split="all")
    assert dataset.size == 2 * 96
    one, two = itertools.islice(dataset.samples(groups=None), 2)
    first, second = one.supervision_ids[6:], two.supervision_ids[6:]
    assert (one.encoder_ids, two.encoder_ids) == (first, second)
    assert (one.supervision_ids[:6], two.supervision_ids[:6]) == (second, first)
    views = rows_of(views24)[one.uid, one.group]
    assert first + second == tuple(views.view_ids)
    assert torch.allclose(two.encoder_input, encoder_input(views, range(6, 12)), atol=1e-6)


def test_the_recorded_chunk_gives_the_recorded_tensors(shared: Path, tmp_path: Path) -> None:
    row = read_chunk(list_chunks(shared / "goldens" / "chunk_synth")[0])
    pq.write_table(pa.Table.from_pylist([row], schema=views_schema(256)), tmp_path / "chunk.parquet")
    dataset = ViewDataset([tmp_path / "chunk.parquet"], 256, ViewDataConfig(unit="published", **PLAIN), split="all")
    samples = list(dataset.samples(groups=None))
    with np.load(shared / "goldens" / "dataset_sample.npz", allow_pickle=False) as stored:
        golden = {name: stored[name] for name in stored.files}
    seen = torch.cat([s.encoder_input for s in samples])
    error = np.abs(seen[..., ::16, ::16].numpy() - golden["img_to_encoder_sub"]).max(axis=(0, 2, 3))
    assert error[:9].max() < 2e-5
    assert error[9] <= 5e-5 + 1e-6
    for name, part in (("", slice(6, 12)), ("nv_", slice(0, 6))):
        image = torch.cat([s.supervision.image[part] for s in samples])
        assert np.abs(image[..., ::16, ::16].numpy() - golden[f"{name}img_sub"]).max() < 1e-6
        cameras = torch.cat([s.supervision.cameras[part] for s in samples]).numpy()
        assert np.array_equal(cameras[:, :24], golden[f"{name}c"][:, :24])


def test_drawn_views_differ_by_sample_and_step_and_repeat_themselves(views24: list[str]) -> None:
    config = ViewDataConfig(unit="object", supervise=5, cache_decoded=False, **PLAIN)
    dataset = ViewDataset(views24, 16, config, split="all")
    order = dataset.order(0, 4)
    one, two = (take(dataset.batches(order), 3) for _ in range(2))
    drawn = [sample.supervision_ids for _, batch in one for _, sample in batch]
    assert drawn == [sample.supervision_ids for _, batch in two for _, sample in batch]
    assert len(set(drawn)) == 12
    assert all(len(set(ids)) == 5 for ids in drawn)
    cached = ViewDataset(views24, 16, ViewDataConfig(unit="object", supervise=5, **PLAIN), split="all")
    for (_, a), (_, b) in zip(one[0][1], take(cached.batches(order), 1)[0][1], strict=True):
        assert same(a.supervision, b.supervision)
        assert torch.equal(a.encoder_input, b.encoder_input)


@pytest.mark.parametrize("keep", [0, 512 << 20])
@pytest.mark.parametrize("batch", [8, 12])
def test_any_number_of_workers_sees_the_same_global_batches(views24: list[str], keep: int, batch: int) -> None:
    dataset = ViewDataset(views24, 16, ViewDataConfig(keep_bytes=keep, **PLAIN), split="all")
    order = dataset.order(5, batch)
    alone = named(take(dataset.batches(order), 20))
    assert [entry[1] for entry in alone[:batch]] == list(range(batch))
    for world in (2, 4):
        parts = [pickle.loads(pickle.dumps(dataset)).batches(order, 0, rank, world) for rank in range(world)]
        together = [take(part, 20) for part in parts]
        assert named([(step, [pair for part in together for pair in part[step][1]]) for step in range(20)]) == alone


def test_a_run_goes_on_where_it_stopped(views24: list[str]) -> None:
    dataset = ViewDataset(views24, 16, ViewDataConfig(supervise=3, keep_bytes=0, **PLAIN), split="all")
    order = dataset.order(5, 8)
    whole = take(dataset.batches(order), 30)
    again = take(pickle.loads(pickle.dumps(dataset)).batches(order, start=17), 13)
    assert named(again) == named(whole[17:])
    for (_, one), (_, two) in zip(whole[17][1], again[0][1], strict=True):
        assert one.supervision_ids == two.supervision_ids
        assert torch.equal(one.supervision.image, two.supervision.image)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_epochs_fetch_each_row_group_once_whatever_the_number_of_workers(write_views: WriteViews, world: int) -> None:
    files = write_views(70, files=2, group_rows=8, size=48)
    config = ViewDataConfig(keep_bytes=0, supervise=1, cache_decoded=False, **PLAIN)
    dataset = ViewDataset(files, 48, config, split="all", sizes=[Path(file).stat().st_size for file in files])
    order, per_epoch = dataset.order(0, 4), dataset.size // 4
    fetched = 0
    for rank in range(world):
        worker = pickle.loads(pickle.dumps(dataset))
        steps = worker.batches(order, 0, rank, world, prefetch=0)
        # Reading ahead is as far into the next epoch after the second as after the first.
        list(itertools.islice(steps, per_epoch))
        before = worker.bytes_fetched
        list(itertools.islice(steps, per_epoch))
        fetched += worker.bytes_fetched - before
        steps.close()
    assert 0.8 * dataset.index.weight < fetched <= 1.2 * dataset.index.weight


def test_a_small_dataset_is_shuffled_as_a_whole_and_fetched_once(views24: list[str]) -> None:
    dataset = ViewDataset(views24, 16, ViewDataConfig(**PLAIN), split="all")
    assert list(dataset.sizes) == [1] * 96
    before = dataset.bytes_fetched
    take(dataset.batches(dataset.order(0, 8)), 60)
    assert dataset.bytes_fetched - before <= dataset.index.weight


def test_the_index_reads_narrow_columns_only(views24: list[str]) -> None:
    dataset = ViewDataset(views24, 16, ViewDataConfig(**PLAIN), split="all")
    footers = 3 * (1 << 14)
    assert dataset.bytes_fetched < footers + 0.05 * sum(Path(file).stat().st_size for file in views24)


def test_unwanted_normals_are_not_fetched(views24: list[str]) -> None:
    fetched = []
    for normals in (True, False):
        dataset = ViewDataset(views24, 16, ViewDataConfig(normals=normals, **PLAIN), split="all")
        before = dataset.bytes_fetched
        sample = next(dataset.samples())
        assert (sample.supervision.normal is not None) is normals
        fetched.append(dataset.bytes_fetched - before)
    assert fetched[1] < 0.8 * fetched[0]


def test_withheld_objects_are_in_no_split_but_their_own(views24: list[str], tmp_path: Path) -> None:
    objects = pa.table({"uid": [f"object{i:03}" for i in range(24)], "held_out": ["style", None, None] * 8})
    pq.write_table(objects, tmp_path / "objects.parquet")
    withheld = pickle.loads(pickle.dumps(Withheld.read([str(tmp_path / "objects.parquet")])))
    away = {f"object{i:03}" for i in range(0, 24, 3)}
    config = ViewDataConfig(val=0.3, test=0.2)
    parts = {
        split: {s.uid for s in ViewDataset(views24, 16, config, split=split, withheld=withheld).samples()}
        for split in ("train", "val", "test", "held_out", "all")
    }
    assert parts["held_out"] == away
    assert not (parts["train"] | parts["val"] | parts["test"]) & away
    assert parts["train"] | parts["val"] | parts["test"] | away == parts["all"]
    assert len(parts["all"]) == 24
    pq.write_table(objects.drop_columns("held_out"), tmp_path / "older.parquet")
    assert not len(Withheld.read([str(tmp_path / "older.parquet")]))
    with pytest.raises(NothingSelectedError, match="held_out"):
        ViewDataset(views24, 16, config, split="held_out", withheld=Withheld.of([]))


def test_objects_are_split_by_content_and_limited_by_uid(views24: list[str]) -> None:
    config = ViewDataConfig(val=0.3, test=0.2)
    parts = {split: ViewDataset(views24, 16, config, split=split) for split in ("train", "val", "test")}
    for split, dataset in parts.items():
        assert {split_of(s.sha256, 0.3, 0.2) for s in dataset.samples()} == {split}
    assert sum(dataset.objects for dataset in parts.values()) == 24
    few = ViewDataset(views24, 16, config, split="all", uids=["object003", "object020"])
    assert [(s.uid, s.group) for s in few.samples(groups=None)] == [
        (uid, group) for uid in ("object003", "object020") for group in range(4)
    ]


@pytest.mark.parametrize("unit", ["object", "group"])
def test_held_out_views_are_never_seen(views24: list[str], unit: str) -> None:
    dataset = ViewDataset(views24, 16, ViewDataConfig(unit=unit, held_out=HeldOut(views=5), **PLAIN), split="all")  # type: ignore[arg-type]
    training = list(dataset.samples(groups=None))
    seen: dict[str, set[int]] = {}
    for sample in training:
        seen.setdefault(sample.uid, set()).update(sample.encoder_ids + sample.supervision_ids)
    judged: dict[str, set[int]] = {}
    for sample in dataset.samples(views="held_out", groups=None):
        judged.setdefault(sample.uid, set()).update(sample.supervision_ids)
        assert sample.supervision.image.shape[0] == len(sample.supervision_ids)
    assert all(len(views) == 5 and not views & seen[uid] for uid, views in judged.items())
    assert len({frozenset(views) for views in judged.values()}) > 12


@pytest.mark.parametrize("unit", ["object", "group"])
def test_held_out_groups_are_no_samples_and_their_own_views_never_supervise(views24: list[str], unit: str) -> None:
    everything = ViewDataset(views24, 16, ViewDataConfig(unit="group", **PLAIN), split="all")
    shown: dict[tuple[str, int], set[int]] = {}
    for sample in everything.samples(groups=None):
        shown[sample.uid, sample.group] = set(sample.supervision_ids)
    config = ViewDataConfig(unit=unit, held_out=HeldOut(groups=(0, 2)), **PLAIN)  # type: ignore[arg-type]
    dataset = ViewDataset(views24, 16, config, split="all")
    assert dataset.size == 48
    assert dataset.objects == 24
    for sample in dataset.samples(groups=None):
        kept = shown[sample.uid, 1] | shown[sample.uid, 3]
        assert sample.group in (1, 3)
        assert set(sample.supervision_ids) | set(sample.encoder_ids) <= kept
        assert unit == "group" or set(sample.supervision_ids) == kept
    assert [dataset.index.rows[i] for i in dataset.first_samples()][:1] == [1]
    judged = list(dataset.samples(views="held_out", groups=None))
    assert len(judged) == (48 if unit == "object" else 0)  # a group shows its own views only
    for sample in judged:
        kept = shown[sample.uid, 1] | shown[sample.uid, 3]
        assert set(sample.supervision_ids) == (shown[sample.uid, 0] | shown[sample.uid, 2]) - kept


def test_a_held_out_view_that_is_encoded_is_an_error(views24: list[str]) -> None:
    with pytest.raises(UserError, match="view 25 is held out, but object object000 encodes it"):
        ViewDataset(views24, 16, ViewDataConfig(held_out=HeldOut(view_ids=(25,)), **PLAIN), split="all")
    dataset = ViewDataset(views24, 16, ViewDataConfig(held_out=HeldOut(view_ids=(26,)), **PLAIN), split="all")
    assert not any(26 in s.supervision_ids for s in dataset.samples(groups=None))
    assert all(s.supervision_ids == (26,) for s in dataset.samples(views="held_out"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"resolution": 64}, "16 pixels wide, but 64 are wanted: render with render.resolution=64"),
        ({"uids": ["object003", "nobody"], "split": "all"}, "1 of the wanted objects.*nobody"),
        ({"split": "val"}, "no object of the split 'val'"),
        ({"config": ViewDataConfig(held_out=HeldOut(views=30))}, "held_out.views=30 is too many"),
        ({"config": ViewDataConfig(held_out=HeldOut(groups=(0, 1, 2, 3)))}, "leaves nothing of object object000"),
    ],
)
def test_a_wrong_request_is_one_sentence(views24: list[str], arguments: dict, sentence: str) -> None:
    arguments = {"config": ViewDataConfig(**PLAIN), **arguments}
    with pytest.raises(UserError, match=sentence):
        ViewDataset(views24, **arguments)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.parquet cannot be read"):
        ViewDataset([tmp_path / "nothing.parquet"])
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(UserError, match=r"text\.parquet cannot be read"):
        ViewDataset([tmp_path / "text.parquet"])


def test_a_batch_that_cannot_be_shared_is_refused(views24: list[str]) -> None:
    dataset = ViewDataset(views24, config=ViewDataConfig(**PLAIN))
    workers = dataset.batches(dataset.order(0, 8), 0, 0, 3)
    with pytest.raises(UserError, match="a batch of 8 cannot be shared by 3 workers"):
        next(workers)


def test_a_broken_picture_stops_the_batch_and_names_its_view(views24: list[str], tmp_path: Path) -> None:
    table = pq.read_table(views24[0])
    rows = table.to_pylist()
    rows[3]["depth"][2] = rows[3]["depth"][2][:60]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "broken.parquet")
    dataset = ViewDataset([tmp_path / "broken.parquet"], config=ViewDataConfig(**PLAIN), split="all")
    sentence = f"view group 3 of object000 cannot be used: the depth picture of view {rows[3]['view_ids'][2]}"
    with pytest.raises(ObjectError, match=sentence):
        take(dataset.batches(dataset.order(0, 8)), 12)


class _Recording(MemoryFileSystem):
    """A remote store that records which bytes it was asked for."""

    protocol = ("recording", "memory")
    asked: list[int] = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.removeprefix("recording://")))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: object) -> bytes:
        content: bytes = super().cat_file(path, start=start, end=end, **kwargs)
        self.asked.append(len(content))
        return content

    def _open(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("files are read by whole ranges, not opened")


def test_a_remote_store_is_asked_for_whole_ranges(views24: list[str]) -> None:
    fsspec.register_implementation("recording", _Recording, clobber=True)
    for i, file in enumerate(views24):
        MemoryFileSystem().pipe_file(f"/views/{i}.parquet", Path(file).read_bytes())
    addresses = [f"recording://views/{i}.parquet" for i in range(3)]
    dataset = ViewDataset(addresses, config=ViewDataConfig(**PLAIN), split="all")
    _Recording.asked.clear()
    remote = take(dataset.batches(dataset.order(0, 8)), 3)
    local = ViewDataset(views24, config=ViewDataConfig(**PLAIN), split="all")
    for (_, one), (_, two) in zip(remote[2][1], take(local.batches(local.order(0, 8)), 3)[2][1], strict=True):
        assert torch.equal(one.encoder_input, two.encoder_input)
    assert len(_Recording.asked) <= 12
    assert sum(_Recording.asked) <= dataset.index.weight


def test_a_row_group_is_read_with_the_columns_asked_for_and_nothing_else(views24: list[str]) -> None:
    files = ParquetFiles(views24)
    files.footer(0)
    before = files.fetched
    table = files.read((0, 1), ["uid", "group"])
    assert table.column("uid").to_pylist() == ["object002"] * 4 + ["object003"] * 4
    assert files.fetched - before == files.weight((0, 1), ["uid", "group"]) < 2000
