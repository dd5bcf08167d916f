"""By which networks pictures are measured: settings, settled by the weights that are here. No model is imported here."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pipelines.runtime.inputs import weights
from pipelines.runtime.stage import Log

Network = Literal["auto", "inception", "dinov2", "efficientnet-lite0", "none"]
Similarity = Literal["auto", "dinov2", "efficientnet-lite0", "none"]
Resize = Literal["clean", "legacy_pytorch", "legacy_tensorflow", "torchmetrics"]
HARDWARE: dict[str, Any] = {"identity": False}


@dataclass(frozen=True)
class PictureSettings:
    """`auto` takes what is on this machine, fetches nothing, and is settled once."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    network: Network = "auto"
    """Whose features Fréchet and kernel distances are taken of: FID and KID are those of `inception`; any other's bear its
    name. `auto`: inception where its weights are, else what `similarity` is."""
    network_weights: str = weights()
    """Its weights; default the registered ones (`sar3d weights`)."""
    similarity: Similarity = "auto"
    """The encoder whose vectors of corresponding pictures are compared; `auto`: dinov2 where its weights are."""
    similarity_weights: str = weights()
    """Its weights; default the registered ones."""
    musiq: Literal["auto", "on", "off"] = "auto"
    """Rate single pictures by MUSIQ; `auto`: where its weights are."""
    musiq_weights: str = weights()
    """Its weights; default the registered ones."""
    resize: Resize = "clean"
    """How pictures are resized for `inception`."""


@dataclass(frozen=True)
class DrawingSettings:
    """How meshes are read and drawn."""

    backend: Literal["auto", "moderngl", "pyrender", "raycast"] = "auto"
    """`moderngl` (EGL on a GPU or Mesa), `pyrender` (EGL), `raycast` (CPU, no GL); `auto` takes the first that works."""
    triangles: int = 5_000_000
    """Objects with more triangles are refused."""
    texture_pixels: int = 4096 * 4096
    """Objects with a texture of more pixels are refused."""
    file_bytes: int = 512 << 20
    """Larger files are refused."""
    object_seconds: float = field(default=120.0, metadata=HARDWARE)
    """Time limit for reading one file."""
    object_memory: int = field(default=4 << 30, metadata=HARDWARE)
    """Limit of resident memory, in bytes, of the process that reads files."""


def settled_pictures(settings: PictureSettings, stage: str, log: Log) -> dict[str, str]:
    """Values in the place of `auto`."""
    similarity: str = settings.similarity
    if similarity == "auto":
        similarity = "dinov2" if _here("dinov2", settings.similarity_weights) else "efficientnet-lite0"
    network: str = settings.network
    if network == "auto":
        network = "inception" if _here("inception", settings.network_weights) else similarity
    musiq: str = settings.musiq
    if musiq == "auto":
        musiq = "on" if _here("musiq-koniq", settings.musiq_weights) else "off"
    without = "" if musiq == "on" else ", MUSIQ's weights are not here"
    log(f"{stage}: pictures are compared as sets by {network}, one by one by {similarity}{without}")
    return {"network": network, "similarity": similarity, "musiq": musiq}


def _here(name: str, where: str) -> bool:
    from sar3d.weights import REGISTRY, find

    return bool(where) or find(REGISTRY[name].source) is not None


def picture_identity(settings: PictureSettings, stage: str) -> dict[str, Any]:
    """Digests of the weights of settled settings. Raises `UserError` where they are missing."""
    from sar3d.conditions import encoder_id
    from sar3d.weights import digest, locate

    found: dict[str, Any] = {}
    for role in ("network", "similarity"):
        name, where, setting = (
            getattr(settings, role),
            getattr(settings, f"{role}_weights"),
            f"{stage}.{role}_weights",
        )
        if name == "inception":
            found[role] = f"inception:{digest([locate(name, where, setting)])}"
        elif name != "none":
            found[role] = encoder_id(name, where, setting)
    if settings.musiq == "on":
        setting = f"{stage}.musiq_weights"
        found["musiq"] = f"musiq-koniq:{digest([locate('musiq-koniq', settings.musiq_weights, setting)])}"
    return found
