"""Sentence encoders of the PointLLM protocol: all-mpnet-base-v2 and SimCSE on RoBERTa-large."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sar3d.errors import UserError
from sar3d.quiet import quiet_transformers
from sar3d.weights import locate

BATCH = 32

Name = Literal["mpnet", "simcse"]


class SentenceEncoder:
    """Sentences to unit vectors."""

    def __init__(self, name: Name, weights: str = "", device: str = "cpu") -> None:
        """`weights`: a folder or hub repository, by default the registered one.

        Raises:
            UserError: the weights are missing or damaged.
        """
        from transformers import AutoModel, AutoTokenizer

        folder = locate(name, weights, f"captions.{name}")
        try:
            with quiet_transformers():
                self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                self.model: Any = AutoModel.from_pretrained(folder, local_files_only=True).to(device)
        except Exception as error:
            # Damaged files and foreign configurations raise whatever their reader stumbles over.
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"{folder} holds no sentence encoder that can be loaded ({reason}): fetch it again"
            ) from error
        self.model.eval().requires_grad_(False)
        self.pool = _POOLS[name]

    @torch.inference_mode()
    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "B C"]:
        """Unit vectors, whatever is encoded beside them."""
        parts = [self._batch(sentences[i : i + BATCH]) for i in range(0, len(sentences), BATCH)]
        return torch.cat(parts)

    def _batch(self, sentences: Sequence[str]) -> Tensor:
        made = self.tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt").to(self.model.device)
        return F.normalize(self.pool(self.model(**made), made["attention_mask"]).float(), dim=-1).cpu()


def _mean(out: Any, mask: Tensor) -> Tensor:
    """Over the words, as Sentence-BERT has it (Reimers and Gurevych 2019)."""
    weights = mask[..., None].to(out.last_hidden_state.dtype)
    total: Tensor = (out.last_hidden_state * weights).sum(1) / weights.sum(1)
    return total


def _pooler(out: Any, mask: Tensor) -> Tensor:
    """The first token after the trained layer (Gao et al. 2021)."""
    pooled: Tensor = out.pooler_output
    return pooled


_POOLS: dict[Name, Callable[[Any, Tensor], Tensor]] = {"mpnet": _mean, "simcse": _pooler}
