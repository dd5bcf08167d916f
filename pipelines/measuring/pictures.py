"""What a worker measures of the pictures of one object: features, quality, and closeness to the true pictures."""

from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8

from pipelines.measuring.config import PictureSettings
from sar3d.conditions import load_encoder
from sar3d.metrics.features.musiq import Musiq, load_musiq
from sar3d.metrics.features.networks import EncoderFeatures, FeatureNetwork, InceptionFeatures
from sar3d.metrics.lpips import PerceptualLoss
from sar3d.metrics.registry import GENERATION, OURS, RECONSTRUCTION, Pictures, Subject, Tools, measure
from sar3d.metrics.rows import feature_columns

Images = UInt8[np.ndarray, "V H W 3"]

CLOSENESS = {
    "psnr": GENERATION["psnr"],
    "ssim": RECONSTRUCTION["ssim"],
    "perceptual": GENERATION["perceptual"],
    "image_similarity": GENERATION["image_similarity"],
}
"""What is measured of pictures and the true ones from the same cameras."""
_NO_FID = "the weights of FID-Inception are not here: run `sar3d weights fetch inception`"
_NO_MUSIQ = "the weights of MUSIQ are not here: run `sar3d weights fetch musiq-koniq`"
EQUAL = 100.0
"""PSNR in dB of equal pictures, which is infinite: a mean over objects must be finite."""
_RATED = 4
"""Pictures that MUSIQ rates at once."""


class PictureMeasurer:
    """Loaded networks."""

    def __init__(
        self, settings: PictureSettings, perceptual: PerceptualLoss | None, device: torch.device, stage: str
    ) -> None:
        """Settings are settled. Raises `UserError` where weights are missing."""
        self.device = device
        encoder = None
        if settings.similarity != "none":
            encoder = load_encoder(
                settings.similarity, settings.similarity_weights, device, f"{stage}.similarity_weights"
            )
        self.tools = Tools(perceptual=perceptual, image_encoder=encoder)
        self.network: FeatureNetwork | None = None
        if settings.network == "inception":
            self.network = InceptionFeatures(settings.network_weights, settings.resize, str(device))
        elif settings.network != "none":
            same = settings.network == settings.similarity and settings.network_weights == settings.similarity_weights
            made = encoder if same else None
            self.network = EncoderFeatures(
                made or load_encoder(settings.network, settings.network_weights, device, f"{stage}.network_weights")
            )
        self._musiq: tuple[Musiq, str] | None = None
        if settings.musiq == "on":
            musiq, name = load_musiq(settings.musiq_weights)
            self._musiq = musiq.to(device), name

    @property
    def absent(self) -> dict[str, str]:
        """Metrics of the published table that the networks here do not give, with the reason."""
        found = {} if isinstance(self.network, InceptionFeatures) else {"fid": _NO_FID, "kid": _NO_FID}
        return found if self._musiq is not None else found | {"musiq_koniq": _NO_MUSIQ}

    def columns(self, images: Images) -> dict[str, Any]:
        """The columns of features."""
        return {} if self.network is None else feature_columns(self.network.names, self.network.features(images))

    @torch.inference_mode()
    def quality(self, images: Images) -> dict[str, float]:
        """What is said of pictures without a reference: the mean over them."""
        if self._musiq is None:
            return {}
        network, name = self._musiq
        batches = (colors(images[i : i + _RATED]) for i in range(0, len(images), _RATED))
        return {name: float(torch.cat([network(batch.to(self.device)) for batch in batches]).double().mean())}

    def closeness(self, made: Images, truth: Images) -> dict[str, float]:
        """Of pictures from the same cameras; the PSNR of equal ones counts as `EQUAL`."""
        subject = Subject(self._pictures(truth), {OURS: self._pictures(made)})
        found = {record["metric"]: float(record["value"][0]) for record in measure(subject, CLOSENESS, self.tools)}
        return {name: min(value, EQUAL) if name == "psnr" else value for name, value in found.items()}

    def _pictures(self, images: Images) -> Pictures:
        return Pictures(colors(images).to(self.device))


def colors(images: Images) -> torch.Tensor:
    """(V, 3, H, W) in [0, 1]."""
    return rearrange(torch.from_numpy(np.ascontiguousarray(images)), "v h w c -> v c h w").float() / 255
