"""Stage `render`: every object seen from many sides, with depth and normals (the `views` dataset)."""

import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.runtime.inputs import rows, same_as
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import Context, Log, Row, Stage, StageConfig
from pipelines.runtime.store import join
from pipelines.sources.config import DownloadConfig, make_source
from sar3d.camera_layout import CameraLayoutConfig
from sar3d.data.formats.views import DEPTH_SCALE, views_schema
from sar3d.errors import ObjectError, UserError

Backend = Literal["auto", "moderngl", "pyrender", "raycast"]
_READERS = 32
"""Shards looked at together: an object store takes its time to answer."""


@dataclass(frozen=True)
class RenderConfig(StageConfig, CameraLayoutConfig):
    """How objects are drawn. The cameras' settings stand in the same section (see `CameraLayoutConfig`)."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    objects: str = rows("objects", default="download")
    """The stage whose objects are drawn."""
    source: DownloadConfig = same_as("download", identity=False)
    """Where their files are fetched from; what they hold counts, not where it lies."""
    resolution: int = 256
    """Width and height of every view, pixels."""
    backend: Backend = "auto"
    """`moderngl` (EGL on a GPU or Mesa), `pyrender` (EGL), `raycast` (CPU, no GL); `auto` takes the first that works."""
    lit: bool = True
    """Shade with the fixed lights; off: every surface shows its base color."""
    up: Literal["y", "z"] = "y"
    """The up axis of .obj, .ply and .stl files, which do not say; glTF is y-up by definition."""
    triangles: int = 5_000_000
    """Objects with more triangles are refused."""
    texture_pixels: int = 4096 * 4096
    """Objects with a texture of more pixels are refused."""
    file_bytes: int = 512 << 20
    """Larger files are refused."""
    object_seconds: float = field(default=120.0, metadata={"identity": False})
    """Time limit for one object, loading and all views together."""
    object_memory: int = field(default=4 << 30, metadata={"identity": False})
    """Limit of resident memory, in bytes, of the process that loads and draws objects."""
    recycle_after: int = field(default=200, metadata={"identity": False})
    """Objects after which the drawing process is replaced by a fresh one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 8 <= self.resolution <= 4096:
            raise UserError(f"render.resolution={self.resolution} is wrong: it is a number of pixels from 8 to 4096")


def camera_layout_of(config: RenderConfig) -> CameraLayoutConfig:
    return CameraLayoutConfig(**{f.name: getattr(config, f.name) for f in dataclasses.fields(CameraLayoutConfig)})


def depth_scale(config: RenderConfig) -> float:
    """Depth of one 16-bit step: the usual one unless a far camera needs longer steps."""
    if config.radius == "fit":
        return DEPTH_SCALE
    farthest = config.radius * (1 + config.jitter / 100) + 1.0
    return max(DEPTH_SCALE, farthest / 65_000)


class RenderStage(Stage[RenderConfig]):
    name = "render"
    section = RenderConfig
    writes = "views"
    version = 2
    about = "draw every object from many views with depth and normals"

    def resolve(self, config: RenderConfig, log: Log) -> RenderConfig:
        from sar3d.render import pick_backend

        backend = pick_backend(config.backend)
        if config.backend == "auto":
            log(f"render: backend {backend}")
        return dataclasses.replace(config, backend=backend)

    def items(self, context: Context[RenderConfig], log: Log) -> Iterable[Item]:
        objects = read_rows(context.rows["objects"], ["uid", "sha256", "path"])
        return ({"uid": r["uid"], "sha256": r["sha256"], "_path": r["path"]} for r in objects)

    def schema(self, context: Context[RenderConfig]) -> pa.Schema:
        return views_schema(context.config.resolution, depth_scale(context.config))

    def process(self, context: Context[RenderConfig], items: list[Item]) -> Iterator[Row | Failure]:
        from pipelines.runtime.drawing import drawer

        config, objects = context.config, context.rows["objects"]
        source = make_source(config.source, join(objects.root, objects.stage, "files"))
        with drawer(config.object_seconds, config.object_memory, config.recycle_after, config.gpus) as draw:
            for item in items:
                try:
                    with source.open(item["_path"]) as path:
                        yield from draw(request_of(config, item, path, source.root_of(item["_path"], path)))
                except ObjectError as error:
                    attempts = getattr(error, "attempts", 1)
                    uid, path_ = item["uid"], item["_path"]
                    yield Failure(uid, path_, self.name, error.kind, error.reason, attempts, error.stderr)

    def artifacts(self, context: Context[RenderConfig], output: Output, log: Log) -> dict[str, bytes]:
        from sar3d.data.contact_sheet import contact_sheet

        sheet = contact_sheet(read_rows(output, batch=2))
        if sheet is not None:
            log(f"render: contact sheet {output.store.address('artifacts/contact_sheet.png')}")
        return {"contact_sheet.png": sheet} if sheet is not None else {}

    def summary(self, context: Context[RenderConfig], output: Output) -> dict[str, float]:
        return {"objects_with_warnings": float(len(warned_objects(output)))}


def warned_objects(output: Output) -> set[str]:
    """uids of the objects whose file was mended or is not drawn in full, see the column `warnings`."""

    def read(address: str) -> set[str]:
        with fsspec.open(address, "rb") as file:
            rows = pq.read_table(file, columns=["uid", "warnings"])
        return set(rows.filter(pc.greater(pc.list_value_length(rows["warnings"]), 0))["uid"].to_pylist())

    with ThreadPoolExecutor(_READERS) as pool:
        return set().union(*pool.map(read, output.files()))


def request_of(config: RenderConfig, item: Item, path: Path, root: Path) -> dict[str, Any]:
    """What the drawing process is asked; nothing outside `root` is opened for the file."""
    return {
        "path": str(path),
        "root": str(root),
        "uid": item["uid"],
        "sha256": item["sha256"],
        "camera_layout": asdict(camera_layout_of(config)),
        "resolution": config.resolution,
        "backend": config.backend,
        "lit": config.lit,
        "depth_scale": depth_scale(config),
        "up": config.up,
        "limits": {
            "triangles": config.triangles,
            "texture_pixels": config.texture_pixels,
            "bytes": config.file_bytes,
        },
    }


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("render")
