"""all-MiniLM-L6-v2: a small sentence encoder whose weights come in a package. Not CLIP: its features mean other things."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from sar3d.conditions.base import TextConditions
from sar3d.conditions.condition import Condition
from sar3d.conditions.pretrained import load_pretrained

LENGTH = 77
"""Tokens of a caption, as many as CLIP's; captions are far shorter than what the model could take."""


class MiniLMEncoder(TextConditions):
    """Tokens (B, 77, 384) of the last layer, zero where the caption has ended; pooled (B, 384) the sentence embedding:
    their mean over the caption, of unit length.
    """

    def __init__(self, folder: Path, id: str, device: torch.device) -> None:
        """Raises `UserError` for a folder that holds no BERT model."""
        from tokenizers import Tokenizer
        from transformers import BertModel

        self.id = id
        self.model: Any = load_pretrained(BertModel, folder, device, add_pooling_layer=False)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(LENGTH)
        self.padding = int(self.model.config.pad_token_id)
        self.tokenizer.enable_padding(length=LENGTH, pad_id=self.padding)
        self.width = int(self.model.config.hidden_size)
        self.shape = (LENGTH, self.width)

    def prepare(self, captions: Sequence[str]) -> Int[Tensor, "B N"]:
        """Token ids, padded to N."""
        return torch.tensor([one.ids for one in self.tokenizer.encode_batch(list(captions))])

    @torch.inference_mode()
    def run(self, prepared: Int[Tensor, "B N"]) -> Condition:
        """See `ConditionEncoder`."""
        ids = prepared.to(self.model.device)
        mask = (ids != self.padding).long()
        tokens = self.model(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
        mean = tokens.float().sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return Condition(tokens, F.normalize(mean, dim=-1).to(tokens.dtype))
