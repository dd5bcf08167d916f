"""Objects on their way: what there is of them after each scale, as fields and as small pictures."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sar3d.ar.generated import DecodedScale
from sar3d.export.turntable import poses_around, render_mesh_views, render_views
from sar3d.vqvae.config import PLANES
from sar3d.vqvae.field import Field, MeshField
from sar3d.vqvae.model import VQVAE

_ELEVATION = 20.0
_FILLED = 0.85
"""Of the cube's side: objects are normalized to a ball that touches no corner."""


@dataclass(frozen=True)
class Partial:
    """Some samples after one scale. To be read before the next scale is decoded."""

    first: int
    """Number of the first of the prompts; the others follow it."""
    scale: int
    """Number of the scale, from 0."""
    scales: int
    """How many there will be."""
    done: DecodedScale
    """Tokens of the scale, and the latent planes of all scales so far."""
    vqvae: VQVAE

    def __len__(self) -> int:
        return len(self.done.tokens)

    @torch.no_grad()
    def field(self, i: int) -> Field:
        """The i-th sample as if no finer scale added anything."""
        return self.vqvae.field(self.vqvae.decode(self.done.f_hat[PLANES * i : PLANES * (i + 1)]))

    def picture(self, i: int, side: int) -> NDArray[np.uint8]:
        """The i-th sample, (side, side, 3), from the same place at every scale."""
        return preview(self.field(i), side, self.vqvae)


OnPartial = Callable[[Partial], None]
"""Called after every scale of every batch."""


def preview(field: Field, side: int, vqvae: VQVAE) -> NDArray[np.uint8]:
    """A field of one object, (side, side, 3), from a fixed place: quick, since it looks for no empty space."""
    half = field.side / 2 * _FILLED
    poses = poses_around(np.full(3, -half), np.full(3, half), field.side, 8, _ELEVATION)[1:2]
    if isinstance(field, MeshField):
        return render_mesh_views(field, *field.triangles(), poses, side)[0]
    device = next(vqvae.parameters()).device
    return render_views(field, poses, side, vqvae.config.volume, None, device)[0]
