"""The views dataset: what is written comes back, through Parquet and every reader, and what cannot be is refused."""

import io
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs
from unprojection import back_project

from sar3d.camera_layout import CameraLayoutConfig, Cameras, cameras
from sar3d.data.formats.views import EncodedView, decode_row, encode_view, make_rows, read_views, split_of, views_schema
from sar3d.data.loading.view_tensors import encoder_input
from sar3d.errors import ObjectError, UserError
from sar3d.geometry import camera_rays

SIZE = 32
RADIUS = 0.4
CENTER = np.array([0.05, -0.1, 0.0])
NORMALISATION = np.array([[0.3, 0, 0, 1], [0, 0, -0.3, 2], [0, 0.3, 0, 1 / 3], [0, 0, 0, 1.0]])
Frame = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def ball_frame(c2w: np.ndarray, K: np.ndarray, size: int = SIZE) -> Frame:
    """rgb, alpha, z-depth and normal of a ball off the origin, by its ray equation."""
    origins, directions = camera_rays(c2w, K, size, size)
    offset = origins - CENTER
    half = (offset * directions).sum(-1)
    root = half**2 - (offset**2).sum(-1) + RADIUS**2
    hit = root > 0
    along = -half - np.sqrt(np.where(hit, root, 0))
    points = origins + along[..., None] * directions
    normal = np.where(hit[..., None], (points - CENTER) / RADIUS, 0)
    depth = np.where(hit, along * (directions @ c2w[:3, 2]), 0)
    rgb = np.where(hit[..., None], (normal + 1) * 120, 255).astype(np.uint8)
    return rgb, np.where(hit, 255, 0).astype(np.uint8), depth.astype(np.float32), normal.astype(np.float32)


@lru_cache(maxsize=1)
def ball() -> tuple[Cameras, dict[int, Frame], dict[int, EncodedView], list[dict[str, Any]]]:
    cams = cameras(CameraLayoutConfig(), "ball", CENTER + np.eye(3) * RADIUS)
    frames = {v: ball_frame(cams.c2w[i], cams.K[i]) for i, v in enumerate(cams.view_ids)}
    encoded = {v: encode_view(*frame) for v, frame in frames.items()}
    return cams, frames, encoded, make_rows("ball", "ab" * 32, cams, encoded, NORMALISATION)


def angle(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Degrees between unit vectors, exact for small angles."""
    return np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(one - two, axis=-1) / 2, 0, 1)))


def test_an_object_becomes_one_row_per_group_with_its_own_pictures_and_cameras() -> None:
    cams, frames, _, rows = ball()
    assert [row["group"] for row in rows] == [0, 1, 2, 3]
    for row, group in zip(rows, cams.groups, strict=True):
        views = decode_row(row)
        assert (views.uid, views.sha256, views.group) == ("ball", "ab" * 32, row["group"])
        assert tuple(views.view_ids) == group
        assert np.array_equal(views.rgb, np.stack([frames[v][0] for v in group]))
        assert np.array_equal(views.alpha, np.stack([frames[v][1] for v in group]))
        at = [cams.view_ids.index(v) for v in group]
        assert np.array_equal(views.c2w, cams.c2w[at].astype(np.float32))
        assert np.array_equal(views.intrinsics, cams.K[at].astype(np.float32))
        assert np.array_equal(views.normalisation, NORMALISATION)


def test_depth_is_kept_to_half_a_step_and_foreground_stays_foreground() -> None:
    cams, frames, _, rows = ball()
    views, truth = decode_row(rows[0]), np.stack([frames[v][2] for v in cams.groups[0]])
    assert views.depth.dtype == np.float32
    assert np.abs(views.depth - truth).max() <= 0.5e-4 + 1e-6
    assert np.array_equal(views.depth > 0, truth > 0)


def test_normals_are_kept_within_four_tenths_of_a_degree_and_vanish_outside() -> None:
    cams, frames, _, rows = ball()
    views, truth = decode_row(rows[0]), np.stack([frames[v][3] for v in cams.groups[0]])
    inside = np.linalg.norm(truth, axis=-1) > 0
    assert inside.any()
    assert angle(views.normal[inside], truth[inside]).max() <= 0.4
    assert np.allclose(np.linalg.norm(views.normal[inside], axis=-1), 1, atol=1e-6)
    assert (views.normal[~inside] == 0).all()


def row_of(view: EncodedView) -> dict[str, Any]:
    """A row whose twelve views all show `view`."""
    return {**ball()[3][0], **{name: [content] * 12 for name, content in vars(view).items()}}


def test_normals_in_every_direction_survive() -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 200, 3))
    vectors[0, :6] = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    blank = np.zeros((200, 200))
    row = row_of(encode_view(np.zeros((200, 200, 3), np.uint8), blank.astype(np.uint8), blank, vectors))
    assert angle(decode_row(row).normal[3], unit).max() <= 0.4


def test_depths_of_all_views_back_project_onto_the_same_ball() -> None:
    views = decode_row(ball()[3][2])
    points = back_project(views.depth, views.c2w, views.intrinsics)[views.depth > 0]
    assert np.allclose(np.linalg.norm(points - CENTER, axis=-1), RADIUS, atol=2e-4)
    assert np.abs(np.cross(views.normal[views.depth > 0], (points - CENTER) / RADIUS)).max() < 0.01


def blank_view(depth: float, scale: float = 1e-4) -> EncodedView:
    pixels = np.zeros((2, 2), np.uint8)
    return encode_view(np.zeros((2, 2, 3), np.uint8), pixels, np.full((2, 2), depth), np.zeros((2, 2, 3)), scale)


@pytest.mark.parametrize("depth", [6.5536, -0.1, np.nan, np.inf])
def test_depths_that_do_not_fit_are_errors(depth: float) -> None:
    with pytest.raises(ObjectError, match=r"16 bits at depth_scale 0\.0001") as caught:
        blank_view(depth)
    assert caught.value.kind == "depth_range"


def test_the_nearest_foreground_does_not_become_background() -> None:
    assert decode_row(row_of(blank_view(1e-6))).depth == pytest.approx(1e-4)


def test_a_row_knows_its_own_depth_scale() -> None:
    assert decode_row(row_of(blank_view(40.0, scale=1e-3))).depth == pytest.approx(40.0)


def test_normals_that_are_not_finite_are_errors() -> None:
    rgb, alpha, depth, normal = ball()[1][0]
    with pytest.raises(ObjectError, match="bad_normal"):
        encode_view(rgb, alpha, depth, np.where(normal == 0, np.nan, normal))


def test_pictures_of_different_sizes_or_kinds_are_refused() -> None:
    rgb, alpha, depth, normal = ball()[1][0]
    with pytest.raises(ValueError, match="differ in size"):
        encode_view(rgb, alpha[:-1], depth, normal)
    with pytest.raises(ValueError, match="8-bit"):
        encode_view(rgb.astype(np.float32), alpha, depth, normal)


def test_pngs_are_ordinary_files() -> None:
    _, frames, encoded, _ = ball()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded[3].rgb))), frames[3][0])
    depth = Image.open(io.BytesIO(encoded[3].depth))
    assert depth.mode == "I;16"
    assert depth.info["depth_scale"] == "0.0001"
    normal = np.asarray(Image.open(io.BytesIO(encoded[3].normal)))
    assert normal[0, 0].tolist() == [128, 128, 128]


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None, **options: Any) -> Path:
    table = pa.Table.from_pylist(rows, schema=schema or views_schema(SIZE))
    pq.write_table(table, path, compression="zstd", **options)
    return path


def assert_same(one: Any, two: Any) -> None:
    for name in one.__dataclass_fields__:
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_rows_come_back_from_parquet_in_order(tmp_path: Path) -> None:
    rows = ball()[3]
    files = [write(tmp_path / "a.parquet", rows[:3], row_group_size=1), write(tmp_path / "b.parquet", rows[3:])]
    back = list(read_views(files))
    assert [row["group"] for row in back] == [0, 1, 2, 3]
    for row, stored in zip(rows, back, strict=True):
        assert_same(decode_row(row), decode_row(stored))
    metadata = pq.read_schema(files[0]).metadata
    assert metadata[b"depth_scale"] == b"0.0001"
    assert metadata[b"resolution"] == b"32"
    assert metadata[b"rgb_background"] == b"white"


def test_rows_decode_from_pandas_and_from_arrow_scalars(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    rows = ball()[3]
    frame = pd.read_parquet(write(tmp_path / "a.parquet", rows))
    assert_same(decode_row(frame.iloc[1].to_dict()), decode_row(rows[1]))


def test_reading_takes_columns_open_files_and_a_file_system(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", ball()[3])
    with path.open("rb") as handle:
        assert list(read_views([handle], ["uid", "group"])) == [{"uid": "ball", "group": g} for g in range(4)]
    inside = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    assert len(list(read_views(["a.parquet"], filesystem=inside))) == 4


def test_reading_holds_a_part_of_the_file_only(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(200_000)
    row = {**ball()[3][0], "rgb": [noise] * 12}
    path = write(tmp_path / "a.parquet", [row] * 40, row_group_size=4, use_dictionary=False)
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in read_views([path])]
    assert len(held) == 40
    assert max(held) < 40e6 < 40 * 12 * 200_000


def test_files_that_are_no_views_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no")
    other = write(tmp_path / "other.parquet", [{"a": 1}], pa.schema([("a", pa.int8())]))
    good = write(tmp_path / "good.parquet", ball()[3])
    for files, columns, message in (
        (tmp_path / "absent.parquet", None, "cannot be read as Parquet"),
        (tmp_path / "text.parquet", None, "cannot be read as Parquet"),
        (other, None, "is not a views dataset of version 1"),
        (good, ["uid", "color"], "has no column 'color'"),
    ):
        with pytest.raises(UserError, match=message):
            list(read_views([files], columns))


def test_damaged_rows_are_errors_about_that_row() -> None:
    row = ball()[3][1]
    small = blank_view(1.0)
    damaged = [
        {**row, "rgb": [row["rgb"][0][:100], *row["rgb"][1:]]},
        {**row, "rgb": [b"", *row["rgb"][1:]]},
        {**row, "rgb": [small.rgb, *row["rgb"][1:]]},
        {**row, "depth": row["alpha"]},
        {**row, "depth": [small.depth] * 12},
        {**row, "alpha": row["alpha"][:-1]},
    ]
    for bad in damaged:
        with pytest.raises(ObjectError, match="view group 1 of ball") as caught:
            decode_row(bad)
        assert caught.value.kind == "bad_row"


def test_encoder_input_is_color_rays_and_depth_of_the_chosen_views() -> None:
    views = decode_row(ball()[3][0])
    tensor = encoder_input(views)
    assert tensor.shape == (6, 10, SIZE, SIZE)
    assert np.array_equal(encoder_input(views, [4, 7])[0].numpy(), tensor[4].numpy())
    pixels = tensor.numpy().transpose(0, 2, 3, 1)
    deviation, mean = np.array([0.229, 0.224, 0.225]), np.array([0.485, 0.456, 0.406])
    assert np.allclose((pixels[..., :3] * deviation + mean) * 255, views.rgb[:6], atol=1e-3)
    assert np.allclose(pixels[..., 3:6], np.cross(views.c2w[:6, None, None, :3, 3], pixels[..., 6:9]), atol=1e-5)
    cosine = np.einsum("vhwc,vc->vhw", pixels[..., 6:9], views.c2w[:6, :3, 2])
    points = views.c2w[:6, None, None, :3, 3] + pixels[..., 6:9] * (pixels[..., 9] / cosine)[..., None]
    on_ball = np.linalg.norm(points - CENTER, axis=-1)[pixels[..., 9] > 0]
    assert np.allclose(on_ball, RADIUS, atol=2e-4)


def test_splits_follow_content_and_their_shares() -> None:
    hashes = [f"{i:064x}" for i in range(20_000)]
    splits = Counter(split_of(h, val=0.1, test=0.05) for h in hashes)
    assert splits["val"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert splits["test"] / 20_000 == pytest.approx(0.05, abs=0.01)
    assert [split_of(h) for h in hashes[:50]] == [split_of(h) for h in hashes[:50]]
    assert {split_of(h, 0.0, 0.0) for h in hashes[:1000]} == {"train"}
    tested = [h for h in hashes if split_of(h, val=0.1, test=0.05) == "test"]
    assert all(split_of(h, val=0.3, test=0.05) == "test" for h in tested)


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (0.5, 0.5), (float("nan"), 0.1)])
def test_splits_that_leave_nothing_to_train_on_are_refused(val: float, test: float) -> None:
    with pytest.raises(UserError, match="no training data"):
        split_of("ab", val, test)
