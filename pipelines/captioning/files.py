"""3D files to tokens: loaded and drawn in a process of their own, as `render` does it, and encoded by a VQVAE."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from pipelines.caching.token_encoder import TokenEncoder, encode_objects, open_token_encoder
from pipelines.render import RenderConfig, depth_scale, request_of
from pipelines.runtime.drawing import drawer
from pipelines.runtime.pipeline import Pipeline
from sar3d.data.formats.views import views_schema
from sar3d.data.loading.view_rows import ENCODER_COLUMNS
from sar3d.errors import ObjectError

KINDS = (".glb", ".gltf", ".obj", ".ply", ".stl")
"""Files that are objects."""


@dataclass(frozen=True)
class FileTokens:
    """The tokens of one file, or why there are none."""

    path: Path
    tokens: list[int] | None
    error: str = ""
    kind: str = ""
    """Of the error, see `ObjectError`."""


def objects_in(places: Sequence[str]) -> list[Path]:
    """The files given, and those in the folders given, in order of name."""
    found: list[Path] = []
    for place in map(Path, places):
        inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in KINDS) if place.is_dir() else [place]
        found += inside
    return found


def tokens_of_files(
    paths: Sequence[Path], vqvae: Path, resolution: int, config: RenderConfig, gpus: float, cpus: float
) -> Iterator[FileTokens]:
    """The tokens of each file's first view group, in order.

    Args:
        resolution: of the views that the VQVAE takes.
        config: how objects are drawn; `backend` settled.
    """
    return encoded_files(paths, open_token_encoder(str(vqvae), gpus, cpus, 1), resolution, config, gpus)


def encoded_files(
    paths: Sequence[Path], token_encoder: TokenEncoder, resolution: int, config: RenderConfig, gpus: float
) -> Iterator[FileTokens]:
    """The same by a VQVAE that is loaded already."""
    schema = views_schema(resolution, depth_scale(config))
    with drawer(config.object_seconds, config.object_memory, config.recycle_after, gpus) as draw:
        for path in paths:
            try:
                content = hashlib.sha256(_read(path)).hexdigest()
                request = request_of(config, {"uid": content, "sha256": content}, path.resolve(), path.resolve().parent)
                rows = draw({**request, "resolution": resolution})
                views = pa.Table.from_pylist(rows[:1], schema).select(ENCODER_COLUMNS)
                made = next(iter(encode_objects(token_encoder, [({"uid": content}, views)])))
                if made.error is not None:
                    raise made.error
            except ObjectError as error:
                yield FileTokens(path, None, error.reason, error.kind)
                continue
            yield FileTokens(path, made.tokens[0].tolist())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ObjectError("missing", "there is no such file") from error
    except OSError as error:
        raise ObjectError("unreadable", f"it cannot be read ({error.strerror})") from error


def rendering(config: Pipeline | None, backend: str) -> RenderConfig:
    """How objects are drawn: as the configuration says, else by default."""
    from sar3d.render import pick_backend

    section: RenderConfig = RenderConfig() if config is None else config.section(config.registry["render"])
    chosen = backend if backend != "auto" else section.backend
    return replace(section, backend=pick_backend(chosen))
