"""The folder of a SAR3D-LLM: its own tensors and config.json as every model has them, and the language model in `lm/`.

`lm/` is a plain Hugging Face folder (`AutoModelForCausalLM.from_pretrained(folder / "lm")`): adapters are merged.
config.json names the sha256 of the files in it, so that the digest of the model
covers them.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sar3d.errors import UserError
from sar3d.hub.files import Tensors, read_safetensors
from sar3d.hub.folder import CONFIG, FORMAT, LM, LM_FILES, WEIGHTS, describe, folder_of, write_folder
from sar3d.llm.config import from_dict, to_dict
from sar3d.llm.language_model import load_lm, load_tokenizer
from sar3d.llm.model import SAR3DLM, set_generation
from sar3d.quiet import quiet_transformers

_LM_PREFIX = "lm."


def save(model: SAR3DLM, folder: str | Path, extra: dict[str, Any] | None = None) -> None:
    """Write the model's folder. config.json comes last, so a folder that has one is complete.

    Args:
        model: on any device; it is not changed.
        folder: made if need be; a model in it is replaced.
        extra: JSON values of the caller's own, kept in config.json.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".lm-", dir=folder) as place:
            fresh = Path(place, LM)
            with quiet_transformers():
                model.lm.save_pretrained(fresh, state_dict=plain_lm(model))
                model.tokenizer.save_pretrained(fresh)
            (folder / CONFIG).unlink(missing_ok=True)
            shutil.rmtree(folder / LM, ignore_errors=True)
            fresh.replace(folder / LM)
        config = {**to_dict(model.config), LM_FILES: _digests(folder / LM)}
        described = {"kind": "llm", "format": FORMAT, "config": config, "extra": extra or {}}
        write_folder(folder, own_tensors(model), described)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the model cannot be saved in {folder} ({error}): choose a folder that can be written"
        ) from error


def load(folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> SAR3DLM:
    """The model of a folder, in evaluation mode; `dtype` is the language model's.

    Raises:
        UserError: no such folder, a damaged file, another kind of model, files that are not those that were saved.
    """
    folder = folder_of(folder)
    described = describe(folder)
    if described["kind"] != "llm":
        raise UserError(f"{folder} holds a model of kind {described['kind']}, not llm: give the folder of an llm")
    values = dict(described["config"])
    files = values.pop(LM_FILES, None)
    config = from_dict(values)
    if files != _digests(folder / LM):
        raise UserError(
            f"the language model in {folder / LM} is not the one that was saved there: save the model again"
        )
    tokenizer, lm = load_tokenizer(folder / LM), load_lm(folder / LM, dtype)
    set_generation(lm, tokenizer)
    tensors = read_safetensors(folder / WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        model = SAR3DLM(config, torch.zeros(config.codebook_size, config.code_dim), lm, tokenizer)
    _load_own(model, tensors, str(folder / WEIGHTS))
    return model.to(device).eval()


def own_tensors(model: SAR3DLM) -> Tensors:
    """What is not the language model's: the unit codes, the projector, the delimiters."""
    state = model.state_dict()
    return {n: t.detach().cpu().contiguous() for n, t in state.items() if not n.startswith(_LM_PREFIX)}


def plain_lm(model: SAR3DLM) -> dict[str, Tensor]:
    """The language model's tensors on the CPU under its own names: adapters merged."""
    lm = model.lm
    tensors = {name.replace(".base_layer.", "."): t for name, t in lm.state_dict().items() if ".lora_" not in name}
    plain = {name: tensor.detach().cpu().clone() for name, tensor in _once(tensors).items()}
    for name, module in lm.named_modules():
        if hasattr(module, "get_delta_weight"):
            weight = plain[f"{name}.weight"]
            for adapter in module.active_adapters:
                weight += module.get_delta_weight(adapter).to(weight)
    return plain


def _once(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tied tensors under their first name only; loading ties them again."""
    seen: dict[int, str] = {}
    return {name: t for name, t in tensors.items() if seen.setdefault(t.data_ptr(), name) == name}


def _load_own(model: SAR3DLM, tensors: Tensors, source: str) -> None:
    expected = own_tensors(model)
    for name in sorted(expected.keys() ^ tensors.keys()):
        what = "lacks" if name in expected else "has"
        raise UserError(f"{source} {what} the tensor {name}: it is damaged or of another model")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{source} has the tensor {name} as {list(tensor.shape)} where the model has "
                f"{list(expected[name].shape)}: it is of a model of another size"
            )
    own = nn.Module.state_dict(model, keep_vars=True)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _digests(folder: Path) -> dict[str, str]:
    """sha256 of every file, by name; empty where there is no folder."""
    if not folder.is_dir():
        return {}
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
