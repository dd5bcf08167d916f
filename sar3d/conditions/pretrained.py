"""Loading a transformers model from a folder: safetensors only, every tensor of the model found there."""

from pathlib import Path
from typing import Any

import torch

from sar3d.errors import UserError
from sar3d.quiet import quiet_transformers


def load_pretrained(kind: Any, folder: Path, device: torch.device, **options: Any) -> Any:
    """A model in evaluation mode; float32 on a CPU, float16 on a GPU.

    Tensors that the model does not use (CLIP's other tower) may be there; missing ones may not.

    Raises:
        UserError: the folder holds no such model, a damaged one, or only a part of it.
    """
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    try:
        with quiet_transformers():
            model, info = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True, **options
            )
    except Exception as error:
        # Damaged files and foreign configurations raise whatever their reader stumbles over.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} holds no {kind.__name__} that can be loaded ({reason}): fetch it again") from error
    lacking = sorted([*info["missing_keys"], *(str(m[0]) for m in info["mismatched_keys"])])
    if lacking:
        raise UserError(f"{folder} lacks tensors of a {kind.__name__}, {lacking[0]} for one: it is of another model")
    return model.to(device).eval().requires_grad_(False)
