"""Keys and values of finished scales, in memory that is allocated once."""

import torch
from jaxtyping import Float
from torch import Tensor

from sar3d.ar.config import ARConfig


class KeyValueCache:
    """The self-attention's keys and values of R rows.

    The last scale, a third of the tokens, is nobody's past: only the others are kept for every block. While the last
    scale runs, one block's keys and values after the other are completed in a buffer that all blocks share.

    Args:
        rows: R, samples and, with guidance, as many unconditional ones.
        dtype: of keys and values.
    """

    def __init__(self, config: ARConfig, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.begins, self.ends = config.begins, config.ends
        width = config.width // config.heads
        kept = (config.depth, 2, rows, config.heads, config.begins[-1], width)
        self.kept: Float[Tensor, "depth 2 R H kept E"] = torch.empty(kept, dtype=dtype, device=device)
        shared = (2, rows, config.heads, config.tokens, width)
        self.shared: Float[Tensor, "2 R H L E"] = torch.empty(shared, dtype=dtype, device=device)

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self.kept.nbytes + self.shared.nbytes

    def past(self, block: int, scale: int) -> Float[Tensor, "2 R H l E"]:
        """Keys and values of a block up to the end of a scale; the scale's own are to be written into it.

        At the last scale, valid until the next call.
        """
        if scale < len(self.ends) - 1:
            return self.kept[block, :, :, :, : self.ends[scale]]
        self.shared[:, :, :, : self.begins[-1]].copy_(self.kept[block])
        return self.shared
