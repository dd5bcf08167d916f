"""Published training chunks, imported as views rows, against tensors recorded from the published loader."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from unprojection import back_project

from sar3d.data.formats.chunks import ChunkRef, list_chunks, read_chunk
from sar3d.data.formats.views import Views, decode_row, views_schema
from sar3d.data.loading.view_tensors import Targets, encoder_input, targets
from sar3d.errors import ObjectError, UserError

GOLDENS = Path(__file__).parents[4].parent / "shared" / "goldens"
CHUNK = GOLDENS / "chunk_synth"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    if not CHUNK.is_dir():
        pytest.skip("the recorded chunk is not at hand: no ../shared/goldens beside the repository")
    with np.load(GOLDENS / "dataset_sample.npz", allow_pickle=False) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def views(golden: dict[str, np.ndarray]) -> Views:
    (ref,) = list_chunks(CHUNK)
    return decode_row(read_chunk(ref))


@dataclass(frozen=True)
class ChunkSample:
    """Encode one half of a chunk's views, render both."""

    encoder_input: torch.Tensor
    seen: Targets
    novel: Targets


@pytest.fixture(scope="module")
def samples(views: Views) -> tuple[ChunkSample, ChunkSample]:
    first, second = range(6), range(6, 12)
    return tuple(
        ChunkSample(encoder_input(views, a), targets(views, a), targets(views, b))
        for a, b in ((first, second), (second, first))
    )


def sparse(tensor: torch.Tensor) -> np.ndarray:
    """Every 16th pixel, as the goldens store them."""
    return tensor.numpy()[..., ::16, ::16]


def test_encoder_input_agrees_with_the_published_loader(
    samples: tuple[ChunkSample, ChunkSample], golden: dict[str, np.ndarray]
) -> None:
    """Color and rays to rounding; depth to half a step of the 16-bit storage (5e-5)."""
    both = torch.cat([sample.encoder_input for sample in samples])
    error = np.abs(sparse(both) - golden["img_to_encoder_sub"]).max(axis=(0, 2, 3))
    assert error[:9].max() < 1e-6
    assert error[9] <= 5e-5 + 1e-6
    assert np.allclose(both.mean(dim=(0, 2, 3)), golden["channel_mean"], atol=1e-4)
    assert np.allclose(both.std(dim=(0, 2, 3)), golden["channel_std"], atol=1e-4)


@pytest.mark.parametrize(("side", "prefix"), [("seen", ""), ("novel", "nv_")])
def test_targets_agree_with_the_published_loader(
    samples: tuple[ChunkSample, ChunkSample], golden: dict[str, np.ndarray], side: str, prefix: str
) -> None:
    parts: list[Targets] = [getattr(sample, side) for sample in samples]
    image = torch.cat([part.image for part in parts])
    assert np.abs(sparse(image) - golden[f"{prefix}img_sub"]).max() < 1e-6
    lenses = torch.cat([part.cameras for part in parts]).numpy()
    assert np.array_equal(lenses[:, :24], golden[f"{prefix}c"][:, :24])
    assert (lenses[:, 24] == 1).all()


def test_depth_and_mask_targets_agree_with_the_published_loader(
    samples: tuple[ChunkSample, ChunkSample], golden: dict[str, np.ndarray]
) -> None:
    depth, mask = (torch.cat([getattr(s.seen, name) for s in samples]) for name in ("depth", "mask"))
    assert np.abs(sparse(depth) - golden["depth_sub"]).max() <= 5e-5 + 1e-6
    assert np.abs(sparse(mask) - golden["mask_sub"]).max() < 1e-6


def test_normals_agree_with_the_recorded_ones_and_with_the_ball(views: Views, golden: dict[str, np.ndarray]) -> None:
    recorded = golden["normal_view1_sub"]
    inside = np.linalg.norm(recorded, axis=-1) > 0.5
    assert np.abs(views.normal[1, ::16, ::16][inside] - recorded[inside]).max() < 0.012
    hit = views.depth > 0
    points = back_project(views.depth, views.c2w, views.intrinsics)[hit]
    assert np.linalg.norm(points, axis=-1) == pytest.approx(0.4, abs=0.01)
    assert (np.einsum("nc,nc->n", views.normal[hit], points) / 0.4).min() > 0.95
    assert (views.normal[views.alpha == 0] == 0).mean() > 0.999


def test_a_chunk_is_a_valid_row(golden: dict[str, np.ndarray]) -> None:
    (ref,) = list_chunks(CHUNK)
    assert ref.category == "Animals"
    row = read_chunk(ref)
    assert (row["uid"], row["group"], row["view_ids"]) == ("synthetic/0/0", 0, list(range(12)))
    assert len(row["sha256"]) == 64
    table = pa.Table.from_pylist([row], schema=views_schema(256))
    assert table.num_rows == 1


@pytest.fixture
def chunk(tmp_path: Path) -> ChunkRef:
    """A whole, grey chunk of no particular object."""
    path = tmp_path / "1" / "0"
    path.mkdir(parents=True)
    (path / "ins.txt").write_text("Animals/1/42\n")
    Image.new("RGB", (3072, 256), (200, 200, 200)).save(path / "raw_img.png")
    Image.new("RGB", (3072, 256), (127, 127, 255)).save(path / "normal.png")
    Image.new("L", (3072, 512), 255).save(path / "depth_alpha.jpg")
    np.save(path / "d_near_far.npy", np.array([[1 / 3] * 12, [1 / 1.5] * 12]))
    pose = np.array([[1, 0, 0, 0], [0, 0, 1, -2], [0, -1, 0, 0], [0, 0, 0, 1]], np.float32).reshape(16)
    lens = np.array([1.38889, 0, 0.5, 0, 1.38889, 0.5, 0, 0, 1 / 256], np.float32)
    np.save(path / "c.npy", np.tile(np.concatenate([pose, lens]), (12, 1)))
    return ChunkRef(path, "Animals")


def test_disparity_normals_and_cameras_of_a_plain_chunk(chunk: ChunkRef) -> None:
    views = decode_row(read_chunk(chunk))
    assert (views.uid, views.group) == ("Animals/1/42", 0)
    assert views.depth == pytest.approx(1.5, abs=1e-4)
    assert np.allclose(views.normal, [0, -1, 0], atol=0.01)
    assert (views.rgb == 200).all()
    assert (views.alpha == 255).all()
    assert (views.intrinsics[:, 2] == [0, 0, 1]).all()
    assert np.array_equal(views.normalisation, np.eye(4))


def test_depth_beyond_the_limit_is_background(chunk: ChunkRef) -> None:
    np.save(chunk.path / "d_near_far.npy", np.array([[1 / 3] * 12, [1 / 2.91] * 6 + [1 / 2.89] * 6]))
    depth = decode_row(read_chunk(chunk)).depth
    assert (depth[:6] == 0).all()
    assert depth[6:] == pytest.approx(2.89, abs=1e-4)


@pytest.mark.parametrize("name", ["raw_img.png", "depth_alpha.jpg", "normal.png", "c.npy", "d_near_far.npy", "ins.txt"])
def test_every_missing_or_empty_file_is_an_error_that_names_it(chunk: ChunkRef, name: str) -> None:
    (chunk.path / name).write_bytes(b"")
    with pytest.raises(ObjectError, match=name.replace(".", r"\.")) as empty:
        read_chunk(chunk)
    assert empty.value.kind in {"unreadable_image", "bad_array", "bad_text"}
    (chunk.path / name).unlink()
    with pytest.raises(ObjectError, match=name.replace(".", r"\.")) as missing:
        read_chunk(chunk)
    assert missing.value.kind == "missing_file"


@pytest.mark.parametrize("name", ["raw_img.png", "depth_alpha.jpg", "normal.png", "c.npy", "d_near_far.npy"])
def test_every_truncated_file_is_an_error(chunk: ChunkRef, name: str) -> None:
    content = (chunk.path / name).read_bytes()
    (chunk.path / name).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ObjectError, match=r"unreadable_image|bad_array"):
        read_chunk(chunk)


def test_a_pickle_is_never_loaded(chunk: ChunkRef) -> None:
    np.save(chunk.path / "c.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ObjectError, match="bad_array"):
        read_chunk(chunk)


def test_a_header_that_claims_too_much_is_an_error(chunk: ChunkRef) -> None:
    content = (chunk.path / "c.npy").read_bytes()
    claimed = content.replace(b"(12, 25), }" + b" " * 11, b"(12, 25000000000), }  ")
    assert claimed != content
    (chunk.path / "c.npy").write_bytes(claimed)
    with pytest.raises(ObjectError, match="bad_array"):
        read_chunk(chunk)


@pytest.mark.parametrize(
    ("index", "value", "kind"),
    [
        ((3, 0), 2.0, "bad_camera"),
        ((3, 0), -1.0, "bad_camera"),
        ((0, 16), 0.0, "bad_camera"),
        ((0, 3), np.nan, "bad_array"),
    ],
)
def test_impossible_cameras_are_errors(chunk: ChunkRef, index: tuple[int, int], value: float, kind: str) -> None:
    cams = np.load(chunk.path / "c.npy")
    cams[index] = value
    np.save(chunk.path / "c.npy", cams)
    with pytest.raises(ObjectError) as caught:
        read_chunk(chunk)
    assert caught.value.kind == kind


def test_disparities_that_are_not_positive_are_errors(chunk: ChunkRef) -> None:
    np.save(chunk.path / "d_near_far.npy", np.zeros((2, 12)))
    with pytest.raises(ObjectError, match="positive disparities"):
        read_chunk(chunk)


def test_pictures_of_the_wrong_size_are_errors(chunk: ChunkRef) -> None:
    Image.new("RGB", (3072, 128)).save(chunk.path / "normal.png")
    with pytest.raises(ObjectError, match=r"normal\.png is a RGB picture"):
        read_chunk(chunk)


def write_index(root: Path, content: object) -> None:
    (root / "dataset.json").write_text(json.dumps(content))


def test_groups_count_the_chunks_of_one_object(chunk: ChunkRef, tmp_path: Path) -> None:
    objects = {"1/0": "a", "1/1": "a", "1/2": "b", "1/3": "b", "1/10": "b", "2/0": "b", "2/1": "c"}
    for name, uid in objects.items():
        if name != "1/0":
            shutil.copytree(chunk.path, tmp_path / name)
        (tmp_path / name / "ins.txt").write_text(uid)
    write_index(tmp_path, {"Animals": ["2/1", "1/10", "1/0", "1/1", "1/2", "1/3", "2/0"]})
    refs = list_chunks(tmp_path)
    found = {ref.path.relative_to(tmp_path).as_posix(): read_chunk(ref)["group"] for ref in refs}
    assert found == {"2/1": 0, "1/10": 2, "1/0": 0, "1/1": 1, "1/2": 0, "1/3": 1, "2/0": 3}
    shutil.rmtree(tmp_path / "1/3")
    assert read_chunk(refs[1])["group"] == 2


def test_chunks_of_one_object_share_a_content_hash(chunk: ChunkRef) -> None:
    first = read_chunk(chunk)["sha256"]
    Image.new("RGB", (3072, 256)).save(chunk.path / "raw_img.png")
    assert read_chunk(chunk)["sha256"] == first


def test_categories_come_in_published_order(tmp_path: Path) -> None:
    write_index(tmp_path, {"Mine": ["9"], "Food": ["1/1", "1/0"], "Furnitures": ["5"], "Plants": []})
    refs = list_chunks(tmp_path)
    assert [(r.category, r.path.relative_to(tmp_path).as_posix()) for r in refs] == [
        ("Furnitures", "5"),
        ("Food", "1/1"),
        ("Food", "1/0"),
        ("Mine", "9"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a map"),
        ('{"Food": "1/0"}', "is not a map"),
        ('{"Food": [1]}', "is not a map"),
        ('{"Food": ["../x"]}', "no directory below"),
        ('{"Food": ["/etc"]}', "no directory below"),
        ('{"Food": [""]}', "no directory below"),
        ('{"Food": ["1/0", "1/0"]}', "twice"),
    ],
)
def test_garbled_indices_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=message):
        list_chunks(tmp_path)


def test_an_absent_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.json cannot be read"):
        list_chunks(tmp_path)
