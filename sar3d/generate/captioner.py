"""Descriptions of objects by a saved model."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sar3d.llm.config import CaptionDecoding, LLMConfig
from sar3d.llm.model import SAR3DLM, writer_of
from sar3d.llm.prompt import CAPTION, check_question

_BATCH = 16
"""Objects that are described at once."""


class Captioner:
    """Answers questions about objects, given their tokens.

    Args:
        model: in evaluation mode.
        vqvae: digest of the VQVAE whose tokens it reads; empty where that is not known.
    """

    def __init__(self, model: SAR3DLM, vqvae: str = "") -> None:
        self.model, self.vqvae = model, vqvae
        self._writer = writer_of(model)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> "Captioner":
        """The model of a folder; its language model computes in bf16 on a GPU, in fp32 on a CPU.

        Raises:
            UserError: there is no such model, or it is damaged.
        """
        from sar3d import hub
        from sar3d.hub import llm

        dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
        extra: dict[str, Any] = hub.describe(folder)["extra"]
        return cls(llm.load(folder, device, dtype), str(extra.get("vqvae", "")))

    @property
    def config(self) -> LLMConfig:
        """The model's configuration, with the codes and scales of its VQVAE."""
        return self.model.config

    def caption(
        self, tokens: Int[Tensor, "B L"], question: str = CAPTION, decoding: CaptionDecoding | None = None
    ) -> list[str]:
        """One answer for each object.

        Args:
            tokens: (B, L), or (L,) for a single object; the part that the model reads will do.
            question: by default the published instruction, which asks for a caption.
            decoding: by default greedy.

        Raises:
            UserError: the tokens are not of the model's VQVAE, or the question cannot be asked.
        """
        tokens = self.model.coarse_tokens(tokens if tokens.ndim == 2 else tokens[None])
        prompt, decoding = self._writer.prompt(check_question(question)), decoding or CaptionDecoding()
        parts = tokens.split(_BATCH) if len(tokens) else ()
        return [text for part in parts for text in self.model.answer([prompt] * len(part), part, decoding)]
