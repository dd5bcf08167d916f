"""Films and sheets of a field."""

import io

import av
import numpy as np
import pytest
import torch
from PIL import Image
from solids import Solid, ball, rod

from sar3d.contact_sheet import grid
from sar3d.export.turntable import render_views, turntable, write_gif, write_mp4
from sar3d.geometry import look_at, spherical_to_cartesian
from sar3d.vqvae.config import VolumeConfig

VOLUME = VolumeConfig(48, 32)


def by_side(points: torch.Tensor) -> torch.Tensor:
    """Red towards -y (the front), green towards +x, blue towards +y, grey towards -x."""
    x, y, _ = points.unbind(-1)
    red, green, blue, grey = (c[..., None].float() for c in (-y > x.abs(), x > y.abs(), y > x.abs(), -x >= y.abs()))
    return torch.cat([red, green, blue], -1) * 0.8 + 0.4 * grey


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return turntable(Solid(ball(0.3), by_side), frames=4, resolution=48, elevation=0.0, volume=VOLUME)


def test_the_camera_goes_from_the_front_to_the_right(frames):
    assert frames.shape == (4, 48, 48, 3)
    assert frames.dtype == np.uint8
    middles = frames[:, 24, 24].astype(int)
    assert middles == pytest.approx(np.array([[204, 0, 0], [0, 204, 0], [0, 0, 204], [102, 102, 102]]), abs=3)


def test_every_picture_holds_the_object_and_little_more():
    stick = turntable(Solid(rod(0.05, -0.44, 0.44)), frames=4, resolution=64, elevation=10.0, volume=VOLUME)
    dark = (stick < 250).any(-1)
    assert not dark[:, [0, -1]].any()
    assert not dark[:, :, [0, -1]].any()
    assert np.ptp(np.flatnonzero(dark.any((0, 1)))) > 48


def test_empty_space_is_skipped_and_the_picture_stays():
    solid = Solid(ball(0.2, (0.1, 0.1, 0.0)))
    fast = turntable(solid, frames=2, resolution=32, elevation=20.0, volume=VOLUME)
    asked = solid.asked
    from sar3d.export.turntable import turntable_poses
    from sar3d.vqvae.occupancy import occupancy_of

    poses = turntable_poses(occupancy_of(solid, resolution=96), 2, 20.0)
    solid.asked = 0
    plain = render_views(solid, poses, 32, VOLUME)
    assert np.abs(plain.astype(int) - fast).max() <= 2
    assert asked - 96**3 < solid.asked / 2


def test_an_empty_field_is_white():
    assert (turntable(Solid(ball(-1.0)), frames=2, resolution=16) == 255).all()


@pytest.mark.parametrize("size", [(48, 48), (47, 33)])
def test_the_film_plays(size, frames, tmp_path):
    film = frames[:, : size[0], : size[1]]
    write_mp4(tmp_path / "a.mp4", film, fps=8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 8
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(shown) == len(film)
    assert shown[0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    error = np.abs(np.stack(shown)[:, : size[0], : size[1]].astype(int) - film)
    assert error.mean() < 4
    write_mp4(tmp_path / "b.mp4", film, fps=8)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_the_animation_repeats_for_ever(frames, tmp_path):
    write_gif(tmp_path / "a.gif", frames, fps=10)
    with Image.open(tmp_path / "a.gif") as opened:
        assert (opened.n_frames, opened.info["loop"], opened.info["duration"]) == (4, 0, 100)
        for i in range(4):
            opened.seek(i)
            assert np.abs(np.asarray(opened.convert("RGB")).astype(int) - frames[i]).mean() < 4


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_sheet_shows_every_picture(frames):
    sheet = np.asarray(Image.open(io.BytesIO(grid([frames[0], frames[1, :20, :30], frames[2]]))))
    assert sheet.shape == (2 * 56, 2 * 56, 3)
    assert np.array_equal(sheet[4:52, 4:52], frames[0])
    assert np.array_equal(sheet[18:38, 56 + 13 : 56 + 43], frames[1, :20, :30])
    assert np.array_equal(sheet[56 + 4 : 56 + 52, 4:52], frames[2])
    assert (sheet[56:, 56:] == 255).all()


def test_views_are_those_of_the_cameras_given():
    solid = Solid(ball(0.3), by_side)
    pose = look_at(spherical_to_cartesian(2.0, 0.0, 0.0))
    picture = render_views(solid, pose[None], 32, VOLUME)[0]
    assert picture[16, 16] == pytest.approx([0, 204, 0], abs=3)
