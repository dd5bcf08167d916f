"""Stage `render`: every object seen from many sides, with depth and normals (the `views` dataset)."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import pyarrow as pa

from pipelines.download import local_places, source_of
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import Context, Row, Say, Stage, StageConfig
from sar3d.data.views import DEPTH_SCALE, views_schema
from sar3d.errors import ObjectError, UserError
from sar3d.rig import RigConfig

Backend = Literal["auto", "moderngl", "pyrender", "raycast"]


@dataclass(frozen=True)
class RenderConfig(StageConfig, RigConfig):
    """How objects are drawn. The cameras' settings stand in the same section (see `RigConfig`)."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    resolution: int = 256
    """Width and height of every view, pixels."""
    backend: Backend = "auto"
    """`moderngl` (EGL on a GPU or Mesa), `pyrender` (EGL), `raycast` (CPU, no GL); `auto` takes the first that works."""
    lit: bool = True
    """Shade with the fixed lights; off: every surface shows its base colour."""
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


def rig_of(config: RenderConfig) -> RigConfig:
    return RigConfig(**{f.name: getattr(config, f.name) for f in dataclasses.fields(RigConfig)})


def depth_scale(config: RenderConfig) -> float:
    """Depth of one 16-bit step: the usual one unless a far camera needs longer steps."""
    if config.radius == "fit":
        return DEPTH_SCALE
    farthest = config.radius * (1 + config.jitter / 100) + 1.0
    return max(DEPTH_SCALE, farthest / 65_000)


class RenderStage(Stage[RenderConfig]):
    name = "render"
    version = 1
    inputs = ("download",)
    about = "draw every object from many views with depth and normals"

    def resolve(self, config: RenderConfig, say: Say) -> RenderConfig:
        from sar3d.render import pick_backend

        backend = pick_backend(config.backend)
        if config.backend == "auto":
            say(f"render: backend {backend}")
        return dataclasses.replace(config, backend=backend)

    def items(self, context: Context[RenderConfig], say: Say) -> Iterable[Item]:
        rows = read_rows(context.inputs["download"], ["uid", "sha256", "path"])
        return ({"uid": r["uid"], "sha256": r["sha256"], "_path": r["path"]} for r in rows)

    def schema(self, context: Context[RenderConfig]) -> pa.Schema:
        return views_schema(context.config.resolution, depth_scale(context.config))

    def places(self, context: Context[RenderConfig]) -> list[str]:
        return local_places(context.everything)

    def process(self, context: Context[RenderConfig], items: list[Item]) -> Iterator[Row | Failure]:
        from pipelines.runtime.drawing import drawer

        config = context.config
        source = source_of(context.everything)
        with drawer(config.object_seconds, config.object_memory, config.recycle_after, config.gpus) as draw:
            for item in items:
                try:
                    with source.open(item["_path"]) as path:
                        yield from draw(request_of(config, item, str(path)))
                except ObjectError as error:
                    attempts = getattr(error, "attempts", 1)
                    uid, path_ = item["uid"], item["_path"]
                    yield Failure(uid, path_, self.name, error.kind, error.reason, attempts, error.stderr)

    def artifacts(self, context: Context[RenderConfig], output: Output, say: Say) -> dict[str, bytes]:
        from sar3d.data.sheet import contact_sheet

        sheet = contact_sheet(read_rows(output, batch=2))
        if sheet is not None:
            say(f"render: contact sheet {output.store.address('artifacts/contact_sheet.png')}")
        return {"contact_sheet.png": sheet} if sheet is not None else {}


def request_of(config: RenderConfig, item: Item, path: str) -> dict[str, Any]:
    return {
        "path": path,
        "uid": item["uid"],
        "sha256": item["sha256"],
        "rig": asdict(rig_of(config)),
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
