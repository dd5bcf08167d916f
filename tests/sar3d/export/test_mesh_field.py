"""Fields that are meshes: exporters take their triangles, and a letter reads the same in pictures and files."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from solids import by_direction
from torch import Tensor

from sar3d.errors import ObjectError
from sar3d.export.config import ExportSettings
from sar3d.export.export import export_object
from sar3d.export.mesh import extract_mesh
from sar3d.export.turntable import FOV, render_mesh_views, turntable
from sar3d.flexicubes import extract, regular_grid
from sar3d.geometry import intrinsics, look_at
from sar3d.meshes import load_scene
from sar3d.meshes.scene import Scene
from sar3d.meshes.transform import Y_UP_TO_Z_UP
from sar3d.render import RenderSettings, make_renderer
from sar3d.vqvae.field import FieldSample, MeshField

GRID = 40
LETTER = ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#")
"""An R, seen from the front (from -y, with z up)."""


@dataclass
class Given:
    """The mesh of a field given on a grid over a cube of side 0.9."""

    sdf: Tensor

    @property
    def side(self) -> float:
        return 0.9

    def triangles(self) -> tuple[Tensor, Tensor]:
        grid = regular_grid(GRID, self.side)[None]
        (mesh,) = extract(grid, self.sdf[None], torch.zeros(1, *3 * (GRID,), 21), training=False)
        return mesh.vertices, mesh.faces

    def color(self, points: Tensor) -> Tensor:
        return by_direction(points)

    def query(self, points: Tensor) -> FieldSample:
        raise AssertionError("a mesh's own colors and triangles are taken")

    def density(self, raw: Tensor) -> Tensor:
        raise AssertionError("a mesh's own triangles are taken")


def letter() -> Given:
    """A plate with the shape of the letter."""
    x, y, z = regular_grid(GRID, 0.9).unbind(-1)
    rows = torch.tensor([[cell == "#" for cell in line] for line in LETTER])
    column = ((x + 0.25) / 0.1).floor().long()
    row = ((0.35 - z) / 0.1).floor().long()
    drawn = (column >= 0) & (column < 5) & (row >= 0) & (row < 7) & (y.abs() < 0.08)
    inside = drawn & rows[row.clamp(0, 6), column.clamp(0, 4)]
    return Given(torch.where(inside, -0.5, 0.5))


def test_triangles_are_taken_as_they_are_less_the_walls_of_cavities():
    radius = regular_grid(GRID, 0.9).norm(dim=-1)
    field = Given(torch.maximum(radius - 0.35, 0.15 - radius))
    assert isinstance(field, MeshField)
    _, faces = field.triangles()
    mesh = extract_mesh(field)
    assert 0 < len(mesh.faces) < len(faces)
    assert np.linalg.norm(mesh.vertices, axis=1).min() > 0.3
    assert trimesh.Trimesh(mesh.vertices, mesh.faces).is_watertight
    whole = extract_mesh(Given(radius - 0.35))
    assert len(whole.faces) == pytest.approx(len(mesh.faces), rel=0.01)


def test_a_mesh_without_a_surface_gives_pictures_and_an_error(tmp_path: Path):
    field = Given(torch.ones(*3 * (GRID + 1,)))
    with pytest.raises(ObjectError, match="empty_field"):
        export_object(field, tmp_path, settings=ExportSettings(formats=("glb", "png"), frames=2, resolution=16))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert np.asarray(sheet).min() == 255


def test_the_letter_reads_the_same_in_pictures_and_files(tmp_path: Path):
    field = letter()
    settings = ExportSettings(formats=("glb", "ply", "obj", "png"), faces=0, texture=256, frames=2, resolution=48)
    export_object(field, tmp_path, settings=settings)
    front = look_at([[0.0, -1.6, 0.0]])
    (picture,) = render_mesh_views(field, *field.triangles(), front, 70)
    expected = np.kron([[cell == "#" for cell in line] for line in LETTER], np.ones((6, 6)))
    shown = (picture < 250).any(-1)
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    cut = shown[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cut = np.asarray(Image.fromarray(cut).resize(expected.shape[::-1], Image.Resampling.NEAREST))
    assert (cut == expected).mean() > (cut[:, ::-1] == expected).mean() + 0.1
    assert (cut == expected).mean() > 0.8
    turn = Y_UP_TO_Z_UP[:3, :3].astype(np.float32)
    renderer = make_renderer("raycast")
    for name in ("object.glb", "object.ply", "object.obj"):
        scene = load_scene(tmp_path / name, up="z")
        parts = tuple(
            dataclasses.replace(p, positions=p.positions @ turn.T, normals=p.normals @ turn.T) for p in scene.primitives
        )
        lens = intrinsics(FOV)[None]
        (seen,) = renderer.render(Scene(parts), front, lens, RenderSettings(70, lit=False)).rgb
        assert np.abs(seen.astype(int) - picture).mean() < 4, name
    frames = turntable(field, frames=2, resolution=48)
    assert not np.array_equal(frames[0], frames[1])
