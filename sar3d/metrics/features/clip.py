"""CLIP's view of pictures and texts: similarity of pictures, CLIP score, and whether a picture's text can be told.

Metrics bear the name of the model in the folder: `clip_vit_large_patch14_similarity`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from sar3d.conditions.base import normalize, resize_and_crop
from sar3d.conditions.pretrained import load_pretrained
from sar3d.errors import UserError
from sar3d.weights import locate

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training pictures (Radford et al. 2021, the released preprocessing)."""


class Clip:
    """Both towers of a CLIP model with their projections into the common space."""

    def __init__(self, weights: str = "", device: str = "cpu") -> None:
        """`weights`: a folder or hub repository, by default the registered CLIP ViT-L/14.

        Raises:
            UserError: the weights are missing, damaged or of another model.
        """
        from transformers import CLIPModel, CLIPTokenizer

        folder = locate("clip-text", weights, "clip")
        self.model: Any = load_pretrained(CLIPModel, folder, torch.device(device))
        try:
            self.tokenizer: Any = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{folder} holds no CLIP tokenizer: vocab.json and merges.txt belong there") from error
        self.side = int(self.model.config.vision_config.image_size)
        self.name = _name(weights, folder)

    @torch.inference_mode()
    def images(self, images: UInt8[np.ndarray, "B H W 3"]) -> Float[Tensor, "B C"]:
        """Unit vectors of pictures."""
        prepared = resize_and_crop(images, self.side, self.side)
        pixels = normalize(prepared, MEAN, STD, next(self.model.parameters()))
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.model.visual_projection(pooled).float(), dim=-1).cpu()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "B C"]:
        """Unit vectors of texts, cut at the longest that the model takes."""
        made = self.tokenizer(list(texts), padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        pooled = self.model.text_model(input_ids=made["input_ids"].to(self.model.device)).pooler_output
        return F.normalize(self.model.text_projection(pooled).float(), dim=-1).cpu()


def clip_score(images: Float[Tensor, "B C"], texts: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """100 · max(cosine, 0) of pictures and their texts (Hessel et al. 2021, without their factor 2.5)."""
    return 100 * (images * texts).sum(-1).clamp_min(0)


def r_precision(images: Float[Tensor, "B C"], texts: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """1 where the picture's own text is the nearest of all B texts, else 0 (Park et al. 2021). Depends on B."""
    return (images @ texts.T).argmax(1).eq(torch.arange(len(images))).float()


def _name(weights: str, folder: Path) -> str:
    """A snapshot's folder in the hub's cache bears a digest; its model's name stands above it."""
    called = weights or (folder.parents[1].name if folder.parent.name == "snapshots" else folder.name)
    return re.sub(r"\W", "_", re.split(r"/|--", called.rstrip("/"))[-1])
