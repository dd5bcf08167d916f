"""The configuration of the mesh decoder. Imports no torch."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast, get_args

from sar3d.errors import UserError
from sar3d.values import read_config
from sar3d.vqvae.config import VQVAEConfig

_FORBID: dict[str, str] = {"extra": "forbid"}

FieldDecoder = Literal["nerf", "flexicubes"]
"""What tokens become: a radiance field, or a mesh."""
FIELD_DECODERS = cast(tuple[FieldDecoder, ...], get_args(FieldDecoder))

GRID_SCALE = 2.005 / 2
"""Side of the grid in units of the cube that the planes cover, as published: a little more than the objects fill."""

PUBLISHED_DEFORMATION = 0.25 / 2.005
"""Of a cube's side: the published tanh(raw) / (4·R) on a grid of side 2.005."""


@dataclass(frozen=True)
class FlexiConfig:
    """Heads that read a mesh from a triplane (published.md, FlexiCubes). The defaults are the published sizes."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    grid: int = 128
    """Cubes along a side of the grid; no weight depends on it."""
    hidden: int = 64
    hidden_layers: int = 3
    deformation: float = 0.45
    """How far a grid point may move, in cubes; published: `PUBLISHED_DEFORMATION`."""

    def __post_init__(self) -> None:
        """Raises UserError for the first value that makes no mesh."""
        for name, least, most in (("grid", 4, 512), ("hidden", 1, 4096), ("hidden_layers", 1, 16)):
            if not least <= getattr(self, name) <= most:
                raise UserError(f"the mesh decoder's {name} is {getattr(self, name)}: give {least} to {most}")
        if not 0 <= self.deformation < 0.5:
            raise UserError(f"the mesh decoder's deformation is {self.deformation}: give 0 to less than 0.5 cubes")


@dataclass(frozen=True)
class FlexiVQVAEConfig:
    """A tokenizer whose triplanes are read as meshes."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    vqvae: VQVAEConfig = dataclasses.field(default_factory=VQVAEConfig)
    """Of encoder, quantizer and decoder; of `field` the side alone counts."""
    mesh: FlexiConfig = dataclasses.field(default_factory=FlexiConfig)


def to_dict(config: FlexiVQVAEConfig) -> dict[str, Any]:
    """As JSON values."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> FlexiVQVAEConfig:
    """The configuration of a config.json. Raises `UserError` for a key or value that is none."""
    return read_config(FlexiVQVAEConfig, values)
