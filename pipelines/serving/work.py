"""What goes between the service's front and the models: requests, and what is told of their progress. Plain data, so that
it travels between processes.
"""

from dataclasses import dataclass, field
from typing import Any

from sar3d.ar.decoding_config import Decoding
from sar3d.export.config import Format
from sar3d.llm.prompt import CAPTION
from sar3d.vqvae.flexi_config import FieldDecoder


@dataclass(frozen=True)
class Upload:
    """A file of a client, as it came."""

    data: bytes
    kind: str
    """Ending of its name, such as `.glb`; its name is not used."""


@dataclass(frozen=True)
class Asked:
    """Samples for one prompt."""

    text: str | None = None
    picture: bytes | None = None
    """A picture file. Neither text nor picture: any object that the models know."""
    n: int = 1
    seed: int = 0
    decoding: Decoding = field(default_factory=Decoding)
    formats: tuple[Format, ...] = ("glb",)
    caption: bool = False
    previews: bool = False
    source: "Upload | tuple[int, ...] | None" = None
    """The object that is varied: a file, or tokens."""
    keep_scales: int = 0
    decoder: FieldDecoder = "nerf"
    """What tokens become."""


@dataclass(frozen=True)
class Question:
    """An object that is to be described."""

    upload: Upload
    question: str = CAPTION


@dataclass(frozen=True)
class Scale:
    """All samples of a request after one scale."""

    scale: int
    """From 1 on."""
    scales: int
    side: int
    """Tokens along a side of a plane."""
    previews: tuple[bytes, ...]
    """A WebP file for each sample."""


@dataclass(frozen=True)
class Made:
    """One finished sample."""

    number: int
    seed: int
    tokens: tuple[int, ...]
    caption: str | None
    files: dict[str, bytes]
    """By name, tokens.safetensors among them."""
    settings: dict[str, Any]
    problem: str | None = None
    """Why files that were asked for are missing."""


@dataclass(frozen=True)
class Failed:
    """The end of a request that cannot be met."""

    status: int
    kind: str
    message: str


@dataclass(frozen=True)
class Begun:
    """A request's tokens are being decoded, in a batch with those of others."""

    batch: int
    """Samples in it."""


@dataclass(frozen=True)
class Described:
    """An object in words."""

    caption: str
    tokens: tuple[int, ...]


Event = Begun | Scale | Made | Failed
