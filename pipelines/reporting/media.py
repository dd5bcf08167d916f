"""Pictures and files as text that a page can hold."""

import base64
import gzip
import io

from PIL import Image, UnidentifiedImageError

from pipelines.reporting.content import PageImage
from sar3d.errors import UserError

_SMALL = 300_000
"""Bytes up to which a picture is embedded as it is."""
_QUALITY = 88


def picture(title: str, data: bytes, side: int) -> PageImage:
    """A picture for the page: as it is if it is small, else as WebP, no side longer than `side`.

    Raises:
        UserError: the data are no picture that Pillow reads.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind, size = Image.MIME.get(image.format or "", ""), image.size
            if len(data) > _SMALL or max(size) > side or kind not in ("image/png", "image/gif", "image/webp"):
                data, size = _smaller(image, side)
                kind = "image/webp"
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"the picture {title} cannot be read ({error}): run its stage again") from error
    return PageImage(title, f"data:{kind};base64,{base64.b64encode(data).decode()}", *size)


def _smaller(image: Image.Image, side: int) -> tuple[bytes, tuple[int, int]]:
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    made = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if size != image.size:
        made = made.resize(size, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    made.save(out, "WEBP", quality=_QUALITY, method=4)
    return out.getvalue(), size


def packed(data: bytes) -> str:
    """Gzipped, in base64; the same text for the same data."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()
