"""All files of one object, and the settings."""

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from solids import Solid, ball, torus
from torch.nn import functional as F

from sar3d.errors import ObjectError, UserError
from sar3d.export.config import FORMATS, PUBLISHED_DENSITY, ExportSettings
from sar3d.export.export import export_object
from sar3d.vqvae.config import FieldConfig, VolumeConfig
from sar3d.vqvae.field import FieldMLP, TriplaneField
from sar3d.working import LOGGER

SMALL = ExportSettings(formats=FORMATS, grid=48, faces=2000, texture=128, frames=5, resolution=33, fps=5)
VOLUME = VolumeConfig(24, 0)
FILES = {
    "glb": "object.glb",
    "ply": "object.ply",
    "obj": "object.obj",
    "mp4": "turntable.mp4",
    "gif": "turntable.gif",
    "png": "sheet.png",
}


def test_an_object_becomes_all_its_files(tmp_path, caplog):
    with caplog.at_level("DEBUG", logger=LOGGER):
        seconds = export_object(Solid(torus(0.3, 0.1)), tmp_path / "new" / "folder", settings=SMALL, volume=VOLUME)
    assert {file.name for file in (tmp_path / "new" / "folder").iterdir()} == set(FILES.values())
    assert {"turntable", "mesh", "unwrap", "bake", *FORMATS} == set(seconds)
    busy_with = [record.getMessage().split(":")[0] for record in caplog.records]
    assert list(dict.fromkeys(busy_with)) == ["turntable", "writing the turntable", "mesh", "texture"]
    assert busy_with.count("turntable") == 5, "each picture"
    assert all(value > 0 for value in seconds.values())
    assert len(trimesh.load(tmp_path / "new" / "folder" / "object.ply").faces) <= 2000
    with Image.open(tmp_path / "new" / "folder" / "turntable.gif") as film:
        assert (film.n_frames, film.size) == (5, (33, 33))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_field_on_a_gpu_gives_what_it_gives_on_a_cpu(tmp_path):
    torch.manual_seed(0)
    config = FieldConfig(density_scale=20.0)
    planes, mlp = F.interpolate(8 * torch.randn(3, 16, 6, 6), size=32, mode="bilinear")[None], FieldMLP(48, config)
    bounds = {}
    for device in ("cpu", "cuda"):
        field = TriplaneField(planes.to(device), mlp.to(device), config)
        export_object(field, tmp_path / device, settings=SMALL, volume=VOLUME, device=device)
        assert {file.name for file in (tmp_path / device).iterdir()} == set(FILES.values())
        bounds[device] = trimesh.load(tmp_path / device / "object.ply").bounds
    assert bounds["cuda"] == pytest.approx(bounds["cpu"], abs=0.02)


@pytest.mark.parametrize("name", FORMATS)
def test_only_what_is_asked_for_is_written(name, tmp_path):
    settings = ExportSettings(formats=(name,), grid=32, faces=500, texture=64, frames=2, resolution=16)
    export_object(Solid(ball(0.3)), tmp_path, settings=settings, volume=VOLUME)
    assert [file.name for file in tmp_path.iterdir()] == [FILES[name]]


def test_a_field_without_a_surface_can_still_be_looked_at(tmp_path):
    with pytest.raises(ObjectError, match="surface"):
        export_object(Solid(ball(-1.0)), tmp_path, settings=SMALL, volume=VOLUME)
    assert {file.name for file in tmp_path.iterdir()} == {"turntable.mp4", "turntable.gif", "sheet.png"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"formats": ("fbx",)}, "'fbx'"),
        ({"grid": 4}, "grid is 4"),
        ({"texture": 100_000}, "texture is 100000"),
        ({"frames": 0}, "frames is 0"),
        ({"faces": -1}, "faces is -1"),
        ({"floaters": 1.0}, "floaters is 1.0"),
        ({"level": 0.0}, "level is 0.0"),
        ({"elevation": 90.0}, "elevation is 90.0"),
    ],
)
def test_a_setting_that_makes_no_file_is_named(values, words):
    with pytest.raises(UserError, match=words):
        ExportSettings(**values)


def test_the_published_density_is_that_of_the_published_level():
    published = FieldConfig()
    raw = 10.0
    assert published.density_scale * np.log1p(np.exp(raw + published.density_shift)) == pytest.approx(PUBLISHED_DENSITY)
