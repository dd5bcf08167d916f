"""Models on disk: save and load ours, convert the published SAR3D checkpoints and back."""

from sar3d.hub.folder import check_tokens, describe, digest
from sar3d.hub.published import convert_published, to_published
from sar3d.hub.store import from_pretrained, save_pretrained

__all__ = [
    "check_tokens",
    "convert_published",
    "describe",
    "digest",
    "from_pretrained",
    "save_pretrained",
    "to_published",
]
