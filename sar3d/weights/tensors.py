"""Reading files of tensors without running what they may hold."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sar3d.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Tensors of a .safetensors file or of a PyTorch file with a state dict; code in the latter is never run.

    Raises:
        UserError: there is no such file, it is damaged, or it holds something else.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: name a .pth or .safetensors file") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no plain file of tensors and was not loaded: save it as a state dict or .safetensors"
        ) from error
    except Exception as error:
        # Readers of damaged files raise many types, none of which tells the user more.
        raise UserError(f"{path} cannot be read as weights, it may be truncated: fetch it again") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise UserError(f"{path} holds no state dict: save the model's state_dict() instead")
    return dict(tensors)
