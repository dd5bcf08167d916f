"""How the mesh decoder is trained: losses, regularizers, start (published.md, FlexiCubes). No model is imported here."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from sar3d.errors import UserError
from sar3d.metrics.config import PerceptualConfig
from sar3d.tasks.vqvae.config import Norm
from sar3d.vqvae.flexi_config import FlexiConfig

_FORBID: dict[str, str] = {"extra": "forbid"}


@dataclass(frozen=True)
class MeshLossConfig:
    """Weights and rules of the losses. A part with weight 0 is not computed.

    The published stage does not say how its regularizers were weighted, so no default is the published one: the weights
    are FlexiCubes' own, scaled to these losses.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    rgb_l1: float = 2.0
    """Mean absolute error of the colors in [0, 1] (published: 1 in [-1, 1])."""
    color_silhouettes: bool = True
    """Let errors of color move silhouettes. Published: False, colors lie under a hard mask."""
    lpips: float = 0.8
    """Perceptual distance of whole pictures."""
    lpips_start: int = 0
    """First step with the perceptual distance."""
    mask: float = 4.0
    """Mean absolute error of the mask (published: 1)."""
    depth: float = 4.0
    """Depth (published: 0.5)."""
    depth_kind: Literal["metric", "ssi"] = "metric"
    """`metric`: absolute error of z-depth where both pictures show the object. `ssi`: scale- and shift-invariant under
    the true mask (published), for which halving the depth means nothing."""
    depth_zero_above: float | None = None
    """Drop the depth loss of a step where it exceeds this (published: 0.2); None for never."""
    normal: float = 0.1
    """Normals."""
    normal_kind: Literal["cosine", "published"] = "cosine"
    """`cosine`: one less the cosine, where both pictures show the object. `published`: squared error of (n + 1) / 2, the
    mean over the foreground plus that over the background."""
    sign: float = 0.02
    """Sign consistency of the field, at the start."""
    sign_final: float = 0.001
    """The same from `sign_steps` on; it falls linearly."""
    sign_steps: int = 250
    deviation: float = 0.25
    """L_dev: how much distances within a patch differ, in units of the cube that the planes cover."""
    weight: float = 0.02
    """Mean absolute raw weight, γ apart, over the cubes that the surface crosses (published: the squares over all
    cubes, most of which have no part in the mesh)."""
    missing: float = 1.0
    """Pull that gives a surface to an object that has none. Published: such an object is given an inverted shell without
    a gradient, which is what 0 amounts to."""
    margin: float = 0.05
    """How far the field is pulled beyond zero for that."""
    adversarial: float = 0.0
    """The generator's adversarial loss (published: 0.025 · 0.025)."""
    adversarial_start: int = 0
    """First step with the adversarial losses."""
    discriminator: float = 0.025
    """The discriminator's own hinge loss."""


@dataclass(frozen=True)
class FlexiTaskConfig:
    """What decides a step of training, apart from the data and the optimizer."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    grid: int = 128
    """Cubes along a side of the grid."""
    deformation: float = 0.45
    """How far a grid point may move, in cubes (published: 0.125)."""
    train: Literal["heads", "decoder"] = "heads"
    """What learns beside nothing else: the heads, or the whole decoder from tokens to planes too. Encoder and quantizer
    never do, so tokens keep their meaning."""
    start: Literal["field", "random"] = "field"
    """`field`: field and color heads take over the tokenizer's radiance field. `random`: they do not."""
    level: float | None = None
    """Raw density at which the surface starts; None: the median of the levels that silhouettes choose (published: 10)."""
    steepness: float | None = None
    """Logit of the field per unit of raw density; None: the field changes by about 0.2 from one grid point to the next
    at the surface (published: 1)."""
    cameras: Literal["exact", "published"] = "exact"
    """`published`: the world is scaled by 2 instead of 2 / 0.9 and seen at 43 instead of 39.6 degrees, as the released
    mesh weights were trained."""
    samples: int = 2
    """Samples along a side of each pixel."""
    loss: MeshLossConfig = dataclasses.field(default_factory=MeshLossConfig)
    lr: float = 1e-4
    """Of the heads."""
    decoder_lr: float = 2e-5
    """Of the decoder, where it learns."""
    discriminator_lr: float = 8e-5
    weight_decay: float = 1e-2
    perceptual: PerceptualConfig = dataclasses.field(default_factory=PerceptualConfig, metadata={"identity": False})
    """Where the weights of LPIPS lie; whether there are any is settled by the stage."""
    discriminator_norm: Norm = "group"
    """`batch` is the published one; its result depends on the number of workers."""
    checkpoint_activations: bool = dataclasses.field(default=False, metadata={"identity": False})
    """Less memory for more time: the decoder's activations are computed again in the backward pass."""

    def __post_init__(self) -> None:
        """Raises UserError for the first value that cannot be."""
        FlexiConfig(self.grid, deformation=self.deformation)
        if not 1 <= self.samples <= 4:
            raise UserError(f"the mesh decoder's samples is {self.samples}: give 1 to 4 along a side of each pixel")
        if self.start == "random" and (self.level is not None or self.steepness is not None):
            raise UserError("level and steepness belong to start=field: leave them out, or set start=field")
