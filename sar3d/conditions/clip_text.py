"""CLIP's text tower: 77 token states and the state of the end token (published.md, data)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sar3d.conditions.base import TextConditions
from sar3d.conditions.condition import Condition
from sar3d.conditions.pretrained import load_pretrained
from sar3d.errors import UserError


class CLIPTextEncoder(TextConditions):
    """`openai/clip-vit-large-patch14` and its relatives: tokens (B, 77, C) last hidden state, pooled (B, C).

    Captions are padded to the longest the model takes, without a mask, as the published features were made.
    """

    def __init__(self, folder: Path, id: str, device: torch.device) -> None:
        """Raises `UserError` for a folder that holds no CLIP text model with its tokenizer."""
        from transformers import CLIPTextModel, CLIPTokenizer

        self.id = id
        self.model: Any = load_pretrained(CLIPTextModel, folder, device)
        try:
            self.tokenizer: Any = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{folder} holds no CLIP tokenizer: vocab.json and merges.txt belong there") from error
        config = self.model.config
        self.shape = (int(config.max_position_embeddings), int(config.hidden_size))
        self.width = int(config.hidden_size)

    def prepare(self, captions: Sequence[str]) -> Int[Tensor, "B N"]:
        """Token ids, padded to N."""
        made = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self.shape[0], return_tensors="pt"
        )
        ids: Tensor = made["input_ids"]
        return ids

    @torch.inference_mode()
    def run(self, prepared: Int[Tensor, "B N"]) -> Condition:
        """See `ConditionEncoder`."""
        out = self.model(input_ids=prepared.to(self.model.device))
        return Condition(out.last_hidden_state, out.pooler_output)
