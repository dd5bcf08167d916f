"""Networks whose features of pictures are compared as sets, each under its own name."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from jaxtyping import Float16, UInt8

from sar3d.metrics.features.inception import load_inception
from sar3d.metrics.features.resize import Resize, prepare

if TYPE_CHECKING:
    from sar3d.conditions import ConditionEncoder

BATCH = 32
FAST_WIDTH = 192
"""Width of the features that intervals are resampled on."""


@dataclass(frozen=True)
class PictureFeatures:
    """Of B pictures of one object, as rows keep them."""

    full: Float16[np.ndarray, "B C"]
    """What distances are taken of."""
    fast: Float16[np.ndarray, "B 192"]
    """What intervals are resampled on."""


@dataclass(frozen=True)
class SetNames:
    """What distances of a network's features are called."""

    frechet: str
    kernel: str
    fast: str
    """The Fréchet distance of the features that its interval is taken on."""


class FeatureNetwork(Protocol):
    """A network and the names of its metrics."""

    names: SetNames

    def features(self, images: UInt8[np.ndarray, "B H W 3"]) -> PictureFeatures:
        """Features of pictures on white, independent of how many are given at once."""


class InceptionFeatures:
    """FID-Inception. With the published weights its distances are FID and KID; with others they say so."""

    def __init__(self, path: str = "", resize: Resize = "clean", device: str = "cpu") -> None:
        """Raises `UserError` where the weights are missing, damaged or of another network."""
        network, published = load_inception(path)
        self.network, self.resize, self.device = network.to(device), resize, device
        self.names = inception_names(published, resize)

    @torch.inference_mode()
    def features(self, images: UInt8[np.ndarray, "B H W 3"]) -> PictureFeatures:
        """See `FeatureNetwork`."""
        full, fast = [], []
        for start in range(0, len(images), BATCH):
            found = self.network(prepare(images[start : start + BATCH], self.resize).to(self.device))
            full.append(found["2048"].half().cpu().numpy())
            fast.append(found[str(FAST_WIDTH)].half().cpu().numpy())
        return PictureFeatures(np.concatenate(full), np.concatenate(fast))


def inception_names(published: bool, resize: Resize) -> SetNames:
    """The names of the distances of FID-Inception's features."""
    suffix = "" if resize == "clean" else f"_{resize}"
    network = "inception" if published else "inception_other_weights"
    frechet, kernel = ("fid", "kid") if published else (f"frechet_{network}", f"kernel_{network}")
    return SetNames(frechet + suffix, kernel + suffix, f"frechet_{network}_{FAST_WIDTH}{suffix}")


class EncoderFeatures:
    """The pooled vectors of a condition encoder, under its name: no FID and no KID."""

    def __init__(self, encoder: "ConditionEncoder") -> None:
        self.encoder = encoder
        name = encoder.id.partition(":")[0].partition("-")[0]
        self.names = SetNames(f"frechet_{name}", f"kernel_{name}", f"frechet_{name}_projected_{FAST_WIDTH}")
        self.projection = _projection(encoder.width)

    @torch.inference_mode()
    def features(self, images: UInt8[np.ndarray, "B H W 3"]) -> PictureFeatures:
        """See `FeatureNetwork`; the fast features are a fixed random projection of the vectors."""
        batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        full = np.concatenate([self.encoder.encode(batch).pooled.float().cpu().numpy() for batch in batches])
        return PictureFeatures(full.astype(np.float16), (full @ self.projection).astype(np.float16))


def _projection(width: int) -> np.ndarray:
    """(C, 192) orthonormal columns, always the same; a narrower vector is padded with zeros."""
    directions = np.random.default_rng(0).normal(size=(max(width, FAST_WIDTH), FAST_WIDTH))
    return np.asarray(np.linalg.qr(directions)[0][:width], np.float32)
