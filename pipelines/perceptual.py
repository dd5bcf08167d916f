"""Which perceptual distance a stage uses: LPIPS where its weights can be had, else a named substitute."""

import dataclasses
from typing import Literal

from pipelines.runtime.stage import Log
from sar3d.errors import UserError
from sar3d.metrics.config import PerceptualConfig

Perceptual = Literal["auto", "lpips", "substitute"]


def resolved(choice: Perceptual, weights: PerceptualConfig, stage: str, log: Log) -> Perceptual:
    """What `auto` means on this machine; `weights` say where those of LPIPS come from."""
    if choice != "auto":
        return choice
    found: Perceptual = "substitute" if _found(weights).vgg16 == "substitute" else "lpips"
    log(f"{stage}: the perceptual distance is {found}")
    return found


def settled(choice: Perceptual, weights: PerceptualConfig, stage: str) -> PerceptualConfig:
    """Where the weights of a resolved distance lie. Raises `UserError` where LPIPS was chosen and cannot be had."""
    if choice == "substitute":
        return dataclasses.replace(weights, vgg16="substitute")
    found = _found(weights)
    if found.vgg16 == "substitute":
        raise UserError(
            f"the weights of LPIPS cannot be had now, but {stage}.perceptual is lpips: make them reachable, set "
            f"{stage}.task.perceptual.vgg16 to their path, or set {stage}.perceptual=substitute"
        )
    return found


def _found(weights: PerceptualConfig) -> PerceptualConfig:
    from sar3d.metrics.lpips import resolve_weights

    return resolve_weights(weights)
