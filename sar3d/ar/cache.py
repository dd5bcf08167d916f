"""Keys and values of finished scales, in memory that is allocated once."""

import torch
from jaxtyping import Float
from torch import Tensor

from sar3d.ar.config import ARConfig


class KeyValueCache:
    """The self-attention's keys and values of a batch of B2 rows.

    No later scale attends to the last one, which holds a third of the tokens, so its keys and values are not kept: while it
    runs, each block completes its own in a buffer that all blocks share.

    Args:
        rows: B2, samples and, with guidance, as many unconditional ones.
        dtype: of keys and values.
    """

    def __init__(self, config: ARConfig, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.begins, self.ends = config.begins, config.ends
        width = config.width // config.heads
        kept = (config.depth, 2, rows, config.heads, config.begins[-1], width)
        self.kept: Float[Tensor, "depth 2 B2 A kept E"] = torch.empty(kept, dtype=dtype, device=device)
        shared = (2, rows, config.heads, config.tokens, width)
        self.shared: Float[Tensor, "2 B2 A L E"] = torch.empty(shared, dtype=dtype, device=device)

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return self.kept.nbytes + self.shared.nbytes

    def past(self, block: int, scale: int) -> Float[Tensor, "2 B2 A l E"]:
        """Keys and values of a block up to the end of a scale; the scale's own are to be written into it.

        At the last scale, valid until the next call.
        """
        if scale < len(self.ends) - 1:
            return self.kept[block, :, :, :, : self.ends[scale]]
        self.shared[:, :, :, : self.begins[-1]].copy_(self.kept[block])
        return self.shared
