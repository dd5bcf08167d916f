"""All files of one object, from its field."""

import time
from pathlib import Path

import torch

from sar3d.contact_sheet import grid
from sar3d.export.config import ExportSettings
from sar3d.export.files import write_glb, write_obj, write_ply
from sar3d.export.mesh import extract_mesh, vertex_colors
from sar3d.export.texture import bake, unwrap
from sar3d.export.turntable import turntable, write_gif, write_mp4
from sar3d.spacing import evenly_spaced
from sar3d.vqvae.config import VolumeConfig
from sar3d.vqvae.field import Field, MeshField
from sar3d.working import working_on

SHEET = 8
"""Pictures on the contact sheet, at most."""


class Stopwatch:
    """Seconds of each part of a piece of work."""

    def __init__(self, device: torch.device | str) -> None:
        self.seconds: dict[str, float] = {}
        self._device = torch.device(device)
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """The time since the last call belongs to `name`."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def export_object(
    field: Field,
    folder: Path | str,
    *,
    settings: ExportSettings = ExportSettings(),  # noqa: B008  frozen
    volume: VolumeConfig = VolumeConfig(),  # noqa: B008  frozen
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Write the files of one object, those of `settings.formats`: object.glb, object.ply, object.obj, turntable.mp4,
    turntable.gif, sheet.png.

    Args:
        field: of one object.
        folder: made if it does not exist; files of these names are replaced.
        settings: what is written, and how fine.
        volume: samples on the rays of the pictures; use the model's own.
        device: where the field is.

    Pictures are written before meshes, so that a field without a surface can still be looked at.

    Returns:
        Seconds of each part.

    Raises:
        ObjectError: the field has no surface, and a mesh was asked for.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    watch = Stopwatch(device)
    if {"mp4", "gif", "png"} & set(settings.formats):
        _pictures(field, folder, settings, volume, device, watch)
    if {"glb", "ply", "obj"} & set(settings.formats):
        _meshes(field, folder, settings, device, watch)
    return watch.seconds


def _pictures(
    field: Field,
    folder: Path,
    settings: ExportSettings,
    volume: VolumeConfig,
    device: torch.device | str,
    watch: Stopwatch,
) -> None:
    film = {"mp4", "gif"} & set(settings.formats)
    frames = turntable(
        field,
        frames=settings.frames if film else min(SHEET, settings.frames),
        resolution=settings.resolution,
        elevation=settings.elevation,
        volume=volume,
        device=device,
    )
    watch.lap("turntable")
    if film:
        working_on("writing the turntable")
    if "mp4" in settings.formats:
        write_mp4(folder / "turntable.mp4", frames, settings.fps)
        watch.lap("mp4")
    if "gif" in settings.formats:
        write_gif(folder / "turntable.gif", frames, settings.fps)
        watch.lap("gif")
    if "png" in settings.formats:
        (folder / "sheet.png").write_bytes(grid(evenly_spaced(list(frames), SHEET)))
        watch.lap("png")


def _meshes(field: Field, folder: Path, settings: ExportSettings, device: torch.device | str, watch: Stopwatch) -> None:
    points = "" if isinstance(field, MeshField) else f" among {settings.grid:,}³ points"
    working_on(f"mesh: the surface{points}")
    mesh = extract_mesh(
        field,
        grid=settings.grid,
        level=settings.level,
        faces=settings.faces,
        floaters=settings.floaters,
        device=device,
    )
    watch.lap("mesh")
    for name, write in {"ply": write_ply, "obj": write_obj}.items():
        if name in settings.formats:
            write(folder / f"object.{name}", mesh, vertex_colors(field, mesh, device=device))
            watch.lap(name)
    if "glb" in settings.formats:
        working_on(f"texture: cutting {len(mesh.faces):,} triangles into charts")
        unwrapped = unwrap(mesh)
        watch.lap("unwrap")
        working_on(f"texture: baking {settings.texture:,} × {settings.texture:,} pixels")
        texture = bake(field, unwrapped, settings.texture, device=device)
        watch.lap("bake")
        write_glb(folder / "object.glb", unwrapped, texture)
        watch.lap("glb")
