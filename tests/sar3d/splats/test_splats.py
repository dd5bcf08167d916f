"""Splats: their files, their colors, and pictures against the closed form and a plain composite."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from splat_files import brute_force, random_splats, write_splats

from sar3d.errors import ObjectError
from sar3d.geometry import intrinsics, look_at
from sar3d.splats import Splats, SplatSettings, load_splats, pick_renderer, render_splats
from sar3d.splats.harmonics import basis
from sar3d.splats.ply import read_splats
from sar3d.splats.render import draw, project

C0 = 0.28209479177387814
POSE, LENS = look_at([0.3, -1.6, 0.4]), intrinsics(39.6)


def one(deviation: float, opacity: float) -> Splats:
    return Splats(
        means=np.zeros((1, 3), np.float32),
        covariances=(deviation**2 * np.eye(3))[None].astype(np.float32),
        opacities=np.full(1, opacity, np.float32),
        sh=(np.array([[[0.9, 0.4, 0.1]]]) - 0.5).astype(np.float32) / C0,
        sh_frame=np.eye(3),
    )


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_one_splat_has_the_closed_form(mode: str) -> None:
    """A ball at the image's center: alpha is its opacity times a Gaussian of its size in pixels."""
    settings = SplatSettings(64, 0.3, mode)  # type: ignore[arg-type]
    frames = render_splats(one(0.05, 0.8), look_at([0.0, -2.0, 0.0])[None], LENS[None], settings)
    focal = LENS[0, 0] * 64
    inside = (focal * 0.05 / 2.0) ** 2
    peak = 0.8 * (inside / (inside + 0.3) if mode == "antialiased" else 1.0)
    offsets = np.arange(64) + 0.5 - 32
    alpha = peak * np.exp(-0.5 * (offsets**2 + offsets[:, None] ** 2) / (inside + 0.3))
    alpha[alpha < 1 / 255] = 0
    assert np.abs(frames.alpha[0] / 255 - alpha).max() < 0.003
    white = 1 - alpha[..., None] * (1 - np.array([0.9, 0.4, 0.1]))
    assert np.abs(frames.rgb[0] / 255 - white).max() < 0.003


@pytest.mark.parametrize(("mode", "side"), [("classic", 96), ("antialiased", 70)])
def test_a_thousand_splats_are_the_plain_composite(mode: str, side: int) -> None:
    flat = project(random_splats(1000), POSE, LENS, SplatSettings(side, mode=mode), "cpu")  # type: ignore[arg-type]
    color, alpha = draw(flat, side)
    expected, opaque = brute_force(flat, side)
    assert opaque.max() > 0.95
    np.testing.assert_allclose(alpha.numpy(), opaque, atol=2e-6)
    np.testing.assert_allclose(color.numpy(), expected, atol=2e-6)


def test_what_is_behind_or_outside_does_not_show() -> None:
    splats = one(0.05, 0.9)
    shown = render_splats(splats, np.stack([POSE, look_at([0, -1.6, 0], [0, -3.0, 0])]), np.stack([LENS] * 2))
    assert shown.alpha[0].max() > 200
    assert shown.alpha[1].max() == 0
    assert (shown.rgb[1] == 255).all()


def test_moving_the_splats_is_moving_the_camera_and_mirroring_mirrors() -> None:
    """View-dependent colors turn with the splats."""
    splats, angle = random_splats(300, size=0.05), 0.7
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    settings, lens = SplatSettings(64), LENS[None]
    here = render_splats(splats, POSE[None], lens, settings)
    there = render_splats(splats.placed(turn), (turn @ POSE)[None], lens, settings)
    assert np.abs(here.rgb.astype(int) - there.rgb).max() <= 1
    front = look_at([0.0, -1.6, 0.0])[None]
    flipped = render_splats(splats.placed(np.diag([-1.0, 1, 1, 1])), front, lens, settings)
    straight = render_splats(splats, front, lens, settings)
    assert np.abs(flipped.rgb[:, :, ::-1].astype(int) - straight.rgb).max() <= 1
    with pytest.raises(ValueError, match="rotations, mirrorings, scales and shifts alone"):
        splats.placed(np.diag([1.0, 2, 1, 1]))


def test_harmonics_are_orthonormal_and_signed_as_in_the_files() -> None:
    random = np.random.default_rng(0).normal(size=(200_000, 3))
    values = basis(random / np.linalg.norm(random, axis=1, keepdims=True), 16)
    np.testing.assert_allclose(4 * np.pi * values.T @ values / len(values), np.eye(16), atol=0.02)
    x, y, z = (basis(np.eye(3)[[i]], 4)[0] for i in range(3))
    assert (x[3], y[1], z[2]) == pytest.approx((-0.4886025, -0.4886025, 0.4886025))


def arrays(count: int = 40) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "means": random.normal(size=(count, 3)),
        "scales": 0.1 * random.random((count, 3)) + 0.01,
        "quaternions": 3 * random.normal(size=(count, 4)),
        "opacities": 0.8 * random.random(count) + 0.1,
        "colors": random.random((count, 3)),
    }


def test_a_file_means_what_its_writer_meant(tmp_path: Path) -> None:
    """Logits, logarithms, quaternions (w, x, y, z) of any length, normals that say nothing."""
    values = arrays()
    write_splats(tmp_path / "a.ply", **values, normals=True)
    splats = load_splats(tmp_path / "a.ply")
    np.testing.assert_allclose(splats.means, values["means"], atol=1e-6)
    np.testing.assert_allclose(splats.opacities, values["opacities"], atol=1e-6)
    np.testing.assert_allclose(0.5 + C0 * splats.sh[:, 0], values["colors"], atol=1e-6)
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_quat(values["quaternions"][:, [1, 2, 3, 0]]).as_matrix()
    expected = turns * (values["scales"] ** 2)[:, None] @ turns.transpose(0, 2, 1)
    np.testing.assert_allclose(splats.covariances, expected, atol=1e-6)
    assert splats.bounds().shape == (2, 3)


def ascii_file(fields: str, rows: list[str]) -> bytes:
    names = "".join(f"property float {name}\n" for name in fields.split())
    return f"ply\nformat ascii 1.0\nelement vertex {len(rows)}\n{names}end_header\n".encode() + "\n".join(rows).encode()


FIELDS = "rot_0 rot_1 rot_2 rot_3 scale_0 scale_1 opacity f_dc_2 f_dc_1 f_dc_0 z y x"
ROW = "1 0 0 0 -3 -4 0 0.3 0.2 0.1 7 8 9"


def test_fields_are_found_by_name_in_any_order() -> None:
    """And 2D Gaussians, which have two scales, are flat."""
    splats = read_splats(ascii_file(FIELDS, [ROW, ROW]))
    assert splats.means[0].tolist() == [9, 8, 7]
    assert splats.sh[0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    np.testing.assert_allclose(splats.covariances[0], np.diag([math.exp(-6), math.exp(-8), 0]), atol=1e-7)
    assert splats.opacities[0] == 0.5


def test_higher_harmonics_are_listed_color_by_color() -> None:
    more = " ".join(f"f_rest_{i}" for i in range(9))
    splats = read_splats(ascii_file(f"{FIELDS} {more}", [f"{ROW} 1 2 3 4 5 6 7 8 9"]))
    assert splats.sh.shape == (1, 4, 3)
    assert splats.sh[0, 1:].tolist() == [[1, 4, 7], [2, 5, 8], [3, 6, 9]]


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"obj", "malformed", "no PLY file"),
        (ascii_file(FIELDS.replace("f_dc_1", "red"), [ROW]), "no_colors", "have no colors"),
        (ascii_file(FIELDS.replace("opacity", "alpha"), [ROW]), "malformed", "no opacities"),
        (ascii_file(FIELDS + " f_rest_0", [ROW + " 1"]), "malformed", r"1 of f_rest_\*"),
        (ascii_file(FIELDS, []), "no_splats", "no splats"),
        (ascii_file(FIELDS, [ROW, "1 2"]), "malformed", "no numbers"),
        (ascii_file(FIELDS, [ROW.replace("9", "nan")]), "non_finite", "not finite"),
        (ascii_file(FIELDS, ["0" + ROW[1:]]), "malformed", "no quaternion"),
        (ascii_file(FIELDS, [ROW]).replace(b"property float x", b"property list uchar int x"), "malformed", "list"),
        (ascii_file(FIELDS, [ROW]).replace(b"vertex 1", b"vertex 99999999"), "too_many_splats", "more than"),
        (ascii_file(FIELDS, [ROW]).replace(b"ascii", b"binary_little_endian"), "truncated", "fewer than"),
    ],
)
def test_files_that_hold_no_splats_say_why(data: bytes, kind: str, words: str) -> None:
    with pytest.raises(ObjectError, match=words) as caught:
        read_splats(data)
    assert caught.value.kind == kind


def test_without_a_gpu_our_own_renderer_is_taken() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert pick_renderer() is render_splats
    assert replace(SplatSettings(), kernel=0.1).mode == "classic"
