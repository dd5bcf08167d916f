"""The encoders by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import UserError
from sar3d.weights import digest, locate, model_files

if TYPE_CHECKING:
    import torch

    from sar3d.conditions.base import ConditionEncoder


@dataclass(frozen=True)
class EncoderKind:
    """One kind of encoder, not loaded."""

    kind: ConditionKind
    find: Callable[[str, str], tuple[Path, list[Path]]]
    """From (weights, setting): what is loaded, and the files that decide the features."""
    load: Callable[[Path, str, "torch.device"], "ConditionEncoder"]


def _folder(name: str) -> Callable[[str, str], tuple[Path, list[Path]]]:
    def find(weights: str, setting: str) -> tuple[Path, list[Path]]:
        folder = locate(name, weights, setting)
        return folder, model_files(name, folder)

    return find


def _file(name: str) -> Callable[[str, str], tuple[Path, list[Path]]]:
    def find(weights: str, setting: str) -> tuple[Path, list[Path]]:
        file = locate(name, weights, setting)
        return file, [file]

    return find


def _load_clip_text(folder: Path, id: str, device: "torch.device") -> "ConditionEncoder":
    from sar3d.conditions.clip_text import CLIPTextEncoder

    return CLIPTextEncoder(folder, id, device)


def _load_dinov2(folder: Path, id: str, device: "torch.device") -> "ConditionEncoder":
    from sar3d.conditions.dinov2 import DINOv2Encoder

    return DINOv2Encoder(folder, id, device)


def _load_minilm(folder: Path, id: str, device: "torch.device") -> "ConditionEncoder":
    from sar3d.conditions.minilm import MiniLMEncoder

    return MiniLMEncoder(folder, id, device)


def _load_efficientnet(file: Path, id: str, device: "torch.device") -> "ConditionEncoder":
    from sar3d.conditions.efficientnet import EfficientNetEncoder

    return EfficientNetEncoder(file, id, device)


ENCODERS: dict[str, EncoderKind] = {
    "clip-text": EncoderKind("text", _folder("clip-text"), _load_clip_text),
    "dinov2": EncoderKind("image", _folder("dinov2"), _load_dinov2),
    "minilm": EncoderKind("text", _folder("minilm"), _load_minilm),
    "efficientnet-lite0": EncoderKind("image", _file("efficientnet-lite0"), _load_efficientnet),
}


def encoder_id(name: str, weights: str = "", setting: str = "weights") -> str:
    """`name:digest` of an encoder's weights, without loading them. Arguments and errors as `load_encoder`."""
    _, files = _kind(name).find(weights, setting)
    return f"{name}:{digest(files)}"


def load_encoder(
    name: str, weights: str = "", device: "str | torch.device" = "cpu", setting: str = "weights"
) -> "ConditionEncoder":
    """An encoder, ready to use: float32 on a CPU, float16 on a GPU.

    Args:
        name: one of `ENCODERS`.
        weights: a path, or a repository of the Hugging Face hub; default the registered one (`sar3d.weights`).
        device: where it runs.
        setting: what the person sets to give other weights, for the sentence.

    Raises:
        UserError: no such encoder, its weights are missing or damaged.
    """
    import torch

    chosen = _kind(name)
    path, files = chosen.find(weights, setting)
    return chosen.load(path, f"{name}:{digest(files)}", torch.device(device))


def _kind(name: str) -> EncoderKind:
    if name not in ENCODERS:
        raise UserError(f"there is no condition encoder {name!r}: choose from {', '.join(ENCODERS)}")
    return ENCODERS[name]
