"""A person's picture, of any size and mode, to what an image encoder takes: square, on white, published preprocessing.

Files are parsed in a process of their own with limits on time and memory; the header is checked before anything is
decoded. This module imports neither torch nor an encoder, so that process starts fast.
"""

import contextlib
import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sar3d.errors import ObjectError, UserError
from sar3d.isolation import Json, LimitedProcess, Limits

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
"""What is read; recognized by content, whatever a file is called."""
SIDE = 256
"""Pixels that a larger picture is reduced to (published.md, data). A smaller one is left to the encoder to enlarge."""
_MATTED = 1024
"""Longest side that a background is removed from."""
_FILLED = 0.75
"""Share of the square that a recentered object fills, about what objects fill in rendered views."""
_WHITE = 250
"""Bytes from which on a color counts as background where there is no alpha."""
_NEARLY_WHITE = 240
"""The same where the paper or the wall behind a photographed object is meant."""
_RIM = 0.02
"""Width of a picture's rim, of its shorter side."""
_COVERED = 16
"""Alpha from which on a pixel counts as the object's."""
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, KeyError, OverflowError, MemoryError)


@dataclass(frozen=True)
class PictureLimits:
    """Bounds on one picture. Exceeding one is an `ObjectError` whose kind is given with each field."""

    bytes: int = 64 << 20
    """Size of the file (`too_large`)."""
    pixels: int = 8192 * 8192
    """Width times height, by the header (`picture_too_large`)."""
    side: int = 16
    """Least width and height (`picture_too_small`)."""
    seconds: float = 30.0
    """Time to decode it (`timeout`)."""
    memory: int = 2 << 30
    """Resident bytes of the process that decodes it (`memory`)."""


LIMITS = PictureLimits()


@dataclass(frozen=True)
class Preparation:
    """What is done to a picture beyond the published preprocessing."""

    remove_background: bool = False
    """Cut the object out of an opaque picture with the optional package rembg; one with transparency stays as it is."""
    recenter: bool = False
    """Crop to the object and put it into the middle at the size it has in rendered views."""


PUBLISHED = Preparation()


@dataclass(frozen=True)
class Picture:
    """A prepared picture."""

    pixels: UInt8[np.ndarray, "H H 3"]
    """sRGB on white, S at most `SIDE`."""
    sha256: str
    """Of the file, or of the pixels where there was none."""
    size: tuple[int, int]
    """Width and height of the original."""
    mode: str
    """Pillow's name of the original's mode."""
    background: bool = False
    """Whether something other than white or transparency surrounds the object."""

    def note(self) -> str | None:
        """A sentence, with the cure, where the picture is none that the models know."""
        if not self.background:
            return None
        return (
            "the picture has a background, and the models know objects on white only: what is made may follow the background; "
            "use --remove-background (in a configuration generate.preparation.remove_background=true), or give a picture "
            "whose background is white or transparent"
        )


def load_picture(
    path: str | Path,
    preparation: Preparation = PUBLISHED,
    limits: PictureLimits = LIMITS,
    process: LimitedProcess | None = None,
) -> Picture:
    """Read and prepare a picture file; see `read_picture` for the arguments and errors, and also `missing_file`."""
    path = Path(path)
    try:
        if not path.is_file():
            raise ObjectError("missing_file", f"there is no file {path}")
        if path.stat().st_size > limits.bytes:
            raise ObjectError("too_large", f"the file has {path.stat().st_size:,} bytes, more than {limits.bytes:,}")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ObjectError("unreadable", f"{path} cannot be read ({error})") from error
    return read_picture(data, preparation, limits, process)


def read_picture(
    data: bytes,
    preparation: Preparation = PUBLISHED,
    limits: PictureLimits = LIMITS,
    process: LimitedProcess | None = None,
) -> Picture:
    """Prepare the bytes of a picture file: orientation by EXIF, first frame, on white, padded to a square, at most 256².

    Args:
        data: a file of one of `FORMATS`, in any mode.
        preparation: what else is done.
        limits: what the file may ask for.
        process: one of `picture_process`; by default one that lives for this call (0.3 s).

    Raises:
        ObjectError: `too_large`, `picture_too_large`, `picture_too_small`, `bad_picture`, `empty_picture` (nothing but
            transparency), or what `LimitedProcess.call` raises.
        UserError: a background is to be removed and rembg is not installed.
    """
    if process is None:
        with picture_process(limits) as own:
            return read_picture(data, preparation, limits, own)
    if len(data) > limits.bytes:
        raise ObjectError("too_large", f"the file has {len(data):,} bytes, more than {limits.bytes:,}")
    request = {"limits": asdict(limits), "preparation": asdict(preparation)}
    reply, blobs = process.call(request, [data])
    try:
        picture = _unpack(reply, blobs, hashlib.sha256(data).hexdigest())
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ObjectError("crashed", f"its process sent a picture that makes no sense ({error})") from error
    if not preparation.remove_background:
        return picture
    cut = _cut_out(Image.fromarray(picture.pixels, "RGBA" if picture.pixels.shape[2] == 4 else "RGB"))
    return replace(picture, pixels=square(cut, preparation), background=False)


def prepare_picture(image: "Image.Image | NDArray[np.uint8]", preparation: Preparation = PUBLISHED) -> Picture:
    """Prepare a picture that is in memory already: a Pillow image, or bytes (H, W), (H, W, 3) or (H, W, 4).

    Raises `ObjectError` and `UserError` as `read_picture` does; `bad_picture` also for an array of another kind.
    """
    if not isinstance(image, Image.Image):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
            found = f"{image.dtype} of shape {image.shape}"
            raise ObjectError(
                "bad_picture", f"an array is a picture if it is uint8 (H, W), (H, W, 3 or 4), not {found}"
            )
        image = Image.fromarray(image)
    _check_size(image, LIMITS)
    with _decoding():
        rgba = _to_rgba(image)
    _check_seen(rgba)
    if preparation.remove_background:
        rgba = _cut_out(rgba)
    digest = hashlib.sha256(np.asarray(rgba).tobytes()).hexdigest()
    return Picture(square(rgba, preparation), digest, image.size, image.mode, has_background(rgba))


def picture_process(limits: PictureLimits = LIMITS) -> LimitedProcess:
    """A process for `read_picture`; it starts at the first call. Close it, or use it as a context manager."""
    bounds = Limits(seconds=limits.seconds, rss_bytes=limits.memory)
    return LimitedProcess("sar3d.pictures:handle", bounds, env={"OMP_NUM_THREADS": "1"})


def handle(request: Json, blobs: list[bytes]) -> tuple[Json, list[bytes]]:
    """The child's side of `read_picture`: a prepared picture, or what a background is to be removed from."""
    Image.MAX_IMAGE_PIXELS = None  # sizes are checked here, in this process alone, and said in the sentence
    preparation = Preparation(**request["preparation"])
    rgba, size, mode = _decode(blobs[0], PictureLimits(**request["limits"]))
    if preparation.remove_background:
        rgba.thumbnail((_MATTED, _MATTED), Image.Resampling.BICUBIC)
        pixels = np.asarray(rgba)
    else:
        pixels = square(rgba, preparation)
    about = {"shape": list(pixels.shape), "size": list(size), "mode": mode, "background": has_background(rgba)}
    return about, [pixels.tobytes()]


def _unpack(reply: Json, blobs: Sequence[bytes], digest: str) -> Picture:
    height, width, channels = (int(n) for n in reply["shape"])
    if not (0 < height <= _MATTED and 0 < width <= _MATTED and channels in (3, 4)):
        raise ValueError(f"shape {reply['shape']}")
    pixels = np.frombuffer(blobs[0], np.uint8).reshape(height, width, channels)
    across, down = (int(n) for n in reply["size"])
    return Picture(pixels, digest, (across, down), str(reply["mode"]), bool(reply["background"]))


def _decode(data: bytes, limits: PictureLimits) -> tuple[Image.Image, tuple[int, int], str]:
    """RGBA, upright; and the stored size and mode."""
    with _decoding(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata, which does not matter
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            size, mode = image.size, image.mode
            _check_size(image, limits)
            rgba = _to_rgba(image)
    _check_seen(rgba)
    return rgba, size, mode


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise ObjectError(
            "bad_picture", f"it is none of {', '.join(FORMATS)}, or damaged from its beginning"
        ) from error
    except _BROKEN as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ObjectError("bad_picture", f"it is truncated or damaged ({detail})") from error


def _check_size(image: Image.Image, limits: PictureLimits) -> None:
    width, height = image.size
    if width * height > limits.pixels:
        most = f"{limits.pixels / 1e6:.0f} million"
        raise ObjectError(
            "picture_too_large", f"it has {width} × {height} pixels, more than {most} in all: scale it down"
        )
    if min(width, height) < limits.side:
        least = f"{limits.side} × {limits.side}"
        raise ObjectError(
            "picture_too_small", f"it has {width} × {height} pixels and shows nothing: give at least {least}"
        )


def _check_seen(rgba: Image.Image) -> None:
    if not np.asarray(rgba.getchannel("A")).any():
        raise ObjectError("empty_picture", "it is transparent all over: give a picture that shows an object")


def _to_rgba(image: Image.Image) -> Image.Image:
    """RGBA8 of any mode, turned as its EXIF says; 16-bit gray keeps its upper 8 bits, which Pillow would clip."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ObjectError("bad_picture", "it holds floating-point numbers, not colors: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        bright = (np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)
        image = Image.fromarray(bright)
    if image.mode in ("La", "PA"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("LAB", "HSV", "YCbCr"):
        image = image.convert("RGB")
    return image.convert("RGBA")


def square(image: Image.Image, preparation: Preparation = PUBLISHED) -> UInt8[np.ndarray, "H H 3"]:
    """An RGB or RGBA image on white, in the middle of a white square, reduced to `SIDE` if it is larger (bicubic)."""
    rgba = image.convert("RGBA")
    if preparation.recenter:
        rgba = rgba.crop(_object_box(rgba))
    side = round(max(rgba.size) / _FILLED) if preparation.recenter else max(rgba.size)
    sheet = Image.new("RGB", (side, side), (255, 255, 255))
    place = ((side - rgba.width) // 2, (side - rgba.height) // 2)
    sheet.paste(rgba, place, mask=rgba.getchannel("A"))
    if side > SIDE:
        sheet = sheet.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(sheet)


def has_background(rgba: Image.Image) -> bool:
    """Whether most of a picture's rim is neither transparent nor nearly white. An object may reach the rim here and there."""
    pixels = np.asarray(rgba)
    seen = (pixels[..., 3] >= _COVERED) & (pixels[..., :3].min(axis=-1) < _NEARLY_WHITE)
    rim = max(1, round(min(seen.shape) * _RIM))
    inner = np.zeros(seen.shape, bool)
    inner[rim:-rim, rim:-rim] = True
    return bool(seen[~inner].mean() > 0.5)


def _object_box(rgba: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is neither transparent nor white; the whole picture if nothing is."""
    pixels = np.asarray(rgba)
    seen = (pixels[..., 3] >= _COVERED) & (pixels[..., :3].min(axis=-1) < _WHITE)
    if not seen.any():
        return 0, 0, *rgba.size
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _cut_out(image: Image.Image) -> Image.Image:
    """The object alone, by rembg, of an opaque picture."""
    rgba = image.convert("RGBA")
    if np.asarray(rgba.getchannel("A")).min() < 255:
        return rgba
    remover = background_remover()
    cut: Image.Image = remover(rgba.convert("RGB")).convert("RGBA")
    _check_seen(cut)
    return cut


def background_remover() -> Any:
    """rembg's function from an image to one with transparency. Raises `UserError` where rembg is not installed."""
    try:
        from rembg import remove
    except ImportError as error:
        raise UserError(
            "removing a background needs the package rembg: pip install 'sar3d[background]', or give a picture whose "
            "background is transparent or white"
        ) from error
    return remove
