"""How objects are exported: the settings of `sar3d.export.export`. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

from sar3d.errors import UserError

Format = Literal["glb", "ply", "obj", "mp4", "gif", "png"]
FORMATS: tuple[Format, ...] = cast(tuple[Format, ...], get_args(Format))

PUBLISHED_DENSITY = 9.000123
"""Density of the published mesh: raw density 10 under the published activation, softplus(10 - 1)."""


@dataclass(frozen=True)
class ExportSettings:
    """What is written of an object, and how fine."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    formats: tuple[Format, ...] = ("glb", "ply", "mp4", "png")
    """Files to write: textured mesh (glb), meshes with colored vertices (ply, obj), turntable as video or animation,
    contact sheet."""
    grid: int = 192
    """Points along a side of the cube at which the surface is looked for."""
    level: float | None = None
    """Density per unit length at which the surface lies; None finds, per object, the one whose silhouettes are most like
    the field's own (`level.silhouette_level`). The published meshes have `PUBLISHED_DENSITY`."""
    faces: int = 30_000
    """Triangles after simplification, at most; 0 keeps all that marching cubes makes."""
    floaters: float = 0.001
    """Separate pieces with less than this share of the whole area are dropped; the largest always stays. 0 keeps all."""
    texture: int = 1024
    """Side of the texture in pixels."""
    frames: int = 24
    """Pictures of the turntable, evenly around the object."""
    resolution: int = 256
    """Side of a picture of the turntable and of the contact sheet in pixels."""
    elevation: float = 20.0
    """Of the turntable's camera, in degrees."""
    fps: int = 12
    """Pictures of the turntable per second."""

    def __post_init__(self) -> None:
        """Raises UserError for the first value that makes no file."""
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown:
            raise UserError(f"there is no export format {unknown[0]!r}: choose from {', '.join(FORMATS)}")
        ranges = {
            "grid": (8, 1024),
            "texture": (16, 8192),
            "frames": (1, 1000),
            "resolution": (16, 4096),
            "fps": (1, 60),
        }
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise UserError(f"the export's {name} is {getattr(self, name)}: give {least} to {most}")
        if self.faces < 0 or 0 < self.faces < 4:
            raise UserError(f"the export's faces is {self.faces}: give 4 or more, or 0 to keep all")
        if not 0 <= self.floaters < 1:
            raise UserError(f"the export's floaters is {self.floaters}: give a share from 0 to less than 1")
        if self.level is not None and not self.level > 0:
            raise UserError(f"the export's level is {self.level}: give a density above 0")
        if not -89 <= self.elevation <= 89:
            raise UserError(f"the export's elevation is {self.elevation}: give an angle from -89 to 89 degrees")
