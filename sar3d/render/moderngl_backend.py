"""The fast renderer: OpenGL 3.3 through a headless EGL context, on a GPU or on Mesa's software rasterizer.

A view is one pass over the opaque triangles into three targets at sample resolution (color, normal, distance), if need
be two over the blended ones, and one small pass that filters, encodes and composites. Only the pixels that the scene
can cover are filtered and read back. `GLCONTEXT_DEVICE_INDEX` chooses among several EGL devices.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import moderngl
import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.scene import Scene, Texture
from sar3d.render import packing, shaders
from sar3d.render.base import (
    Backend,
    Floats,
    Frames,
    OneThread,
    RenderSettings,
    bounding_sphere,
    check_cameras,
    near_far,
    refuse_blank,
    refuse_empty_scene,
)
from sar3d.render.sampling import Rect, covered_by_points, sample_projection, samples

SRGB8_ALPHA8 = 0x8C43
ATTRIBUTES = ("position", "normal", "uv", "params", "color")
STAGES = {"opaque": ("opaque",), "blend": ("blend", "blend_geometry")}
"""The fragment shaders that a batch goes through."""


@dataclass(frozen=True)
class _Targets:
    """Framebuffers for one resolution."""

    resolution: int
    surface: Any
    """Color, normal, distance and depth buffer at sample resolution."""
    blend: Any
    """The same color and depth buffer; depth is tested, never written."""
    blend_geometry: Any
    """The same normal, distance and depth buffer."""
    final: Any
    """The four pictures of `Frames` at pixel resolution, each in a target of its own: the driver then reads them back
    as they are kept, which is far cheaper than to take channels apart in NumPy."""
    fine: tuple[Any, Any, Any]
    """The textures behind `surface`: what the last pass reads."""
    resources: ExitStack


@dataclass(frozen=True)
class _Drawable:
    """A batch on the device."""

    batch: packing.Batch
    indices: Any
    texture: Any
    arrays: dict[str, Any]
    """By stage: the vertices bound to its program."""

    def draw(self, stage: str, first: int = 0, count: int = -1) -> None:
        if self.batch.texture is not None:
            self.texture.use(0)
            if (mirror := _mirror(self.batch.texture)) != (0, 0):
                self.arrays[stage].program["mirror"] = mirror
        self.arrays[stage].render(first=first, vertices=count)


class ModernGLRenderer:
    """See `sar3d.render.base.Renderer`. The context is made by the first `render`, on its thread."""

    name: Backend = "moderngl"

    def __init__(self) -> None:
        self._thread = OneThread()
        self._context: Any = None
        self._programs: dict[tuple[str, shaders.Texels], Any] = {}
        self._resolve: Any = None
        self._targets: _Targets | None = None

    def render(self, scene: Scene, c2w: Floats, intrinsics: Floats, settings: RenderSettings) -> Frames:
        """See `sar3d.render.base.Renderer.render`."""
        self._thread.check()
        c2w, intrinsics = check_cameras(c2w, intrinsics)
        refuse_empty_scene(scene)
        self._open()
        frames = Frames.empty(len(c2w), settings.resolution)
        # Another renderer of this thread may have made its own context current.
        with self._context:
            self._render_views(scene, c2w, intrinsics, settings, frames)
        refuse_blank(scene, frames, c2w, intrinsics)
        return frames

    def _render_views(
        self,
        scene: Scene,
        c2w: NDArray[np.float64],
        intrinsics: NDArray[np.float64],
        settings: RenderSettings,
        frames: Frames,
    ) -> None:
        targets = self._targets_of(settings.resolution)
        sphere, points = bounding_sphere(scene), _points(scene)
        with self._upload(scene) as drawables:
            blended = [d.batch for d in drawables if d.batch.blend]
            centroids = [packing.centroids(b) for b in blended]
            for view in range(len(c2w)):
                rect = covered_by_points(points, c2w[view], intrinsics[view], settings.resolution)
                if rect[0] == rect[2] or rect[1] == rect[3]:
                    continue
                near, far = near_far(sphere, c2w[view])
                clip = sample_projection(c2w[view], intrinsics[view], settings.resolution, near, far)
                self._set_camera(clip, c2w[view], settings.lit)
                runs = packing.back_to_front(blended, centroids, c2w[view, :3, 2])
                self._draw(targets, drawables, runs, rect, packing.nearest_order(c2w[view, :3, 2]))
                self._read(targets, rect, frames, view)

    def close(self) -> None:
        """Release the context and everything in it."""
        if self._context is None:
            return
        self._thread.check()
        with self._context:
            if self._targets is not None:
                self._targets.resources.close()
            for program in self._programs.values():
                program.release()
            self._resolve.program.release()
            self._resolve.release()
        self._context.release()
        self._context, self._targets, self._programs = None, None, {}

    def _open(self) -> None:
        if self._context is not None:
            return
        # Mesa would start a thread per core in each of many renderer processes.
        os.environ.setdefault("LP_NUM_THREADS", "1")
        options: dict[str, Any] = {"standalone": True, "backend": "egl"}
        self._context = context = moderngl.create_context(require=330, **options)
        resolve = context.program(shaders.source("resolve.vert"), shaders.source("resolve.frag"))
        resolve["color"], resolve["normal"], resolve["depth"] = 0, 1, 2
        self._resolve = context.vertex_array(resolve, [])

    def _program(self, stage: str, texels: shaders.Texels) -> Any:
        if (stage, texels) not in self._programs:
            sources = shaders.source("surface.vert"), shaders.surface_fragment(f"{stage}.frag", texels)
            self._programs[stage, texels] = self._context.program(*sources)
        return self._programs[stage, texels]

    def _targets_of(self, resolution: int) -> _Targets:
        if self._targets is not None and self._targets.resolution == resolution:
            return self._targets
        if self._targets is not None:
            self._targets.resources.close()
        context, stack = self._context, ExitStack()

        def owned(resource: Any) -> Any:
            stack.callback(resource.release)
            return resource

        fine, coarse = (samples(resolution),) * 2, (resolution,) * 2
        # Half floats hold linear light and directions to well under a level of 255 and 0.03°, in half the memory traffic.
        color, normal = (owned(context.texture(fine, 4, dtype="f2")) for _ in range(2))
        distance = owned(context.texture(fine, 1, dtype="f4"))
        depth = owned(context.depth_renderbuffer(fine))
        layouts = (4, "f1"), (1, "f1"), (4, "f4"), (1, "f4")
        final = [owned(context.renderbuffer(coarse, components, dtype=dtype)) for components, dtype in layouts]
        self._targets = _Targets(
            resolution=resolution,
            surface=owned(context.framebuffer([color, normal, distance], depth)),
            blend=owned(context.framebuffer([color], depth)),
            blend_geometry=owned(context.framebuffer([normal, distance], depth)),
            final=owned(context.framebuffer(final)),
            fine=(color, normal, distance),
            resources=stack,
        )
        self._targets.blend.depth_mask = False
        return self._targets

    @contextmanager
    def _upload(self, scene: Scene) -> Iterator[list[_Drawable]]:
        with ExitStack() as stack:
            yield [self._drawable(batch, stack) for batch in packing.pack(scene)]

    def _drawable(self, batch: packing.Batch, stack: ExitStack) -> _Drawable:
        def owned(resource: Any) -> Any:
            stack.callback(resource.release)
            return resource

        vertices = owned(self._context.buffer(batch.vertices))
        faces = batch.faces if batch.blend else packing.near_to_far(batch)
        indices = owned(self._context.buffer(faces, dynamic=batch.blend))
        arrays = {}
        for stage in STAGES["blend" if batch.blend else "opaque"]:
            program = self._program(stage, _texels(batch.texture))
            layout = [f"{s.stop - s.start}f" if a in program else f"{s.stop - s.start}x4" for a, s in _columns()]
            used = [a for a, _ in _columns() if a in program]
            arrays[stage] = owned(self._context.vertex_array(program, [(vertices, " ".join(layout), *used)], indices))
        texture = owned(self._texture(batch.texture)) if batch.texture is not None else None
        return _Drawable(batch, indices, texture, arrays)

    def _texture(self, texture: Texture) -> Any:
        height, width = texture.pixels.shape[:2]
        limit = self._context.info["GL_MAX_TEXTURE_SIZE"]
        if max(height, width) > limit:
            raise ObjectError("texture_size", f"A texture of {width} x {height} exceeds the driver's limit of {limit}.")
        pixels = np.ascontiguousarray(texture.pixels)
        out = self._context.texture((width, height), 4, pixels, internal_format=SRGB8_ALPHA8)
        out.build_mipmaps()
        magnify = moderngl.NEAREST if texture.nearest else moderngl.LINEAR
        out.filter = moderngl.LINEAR_MIPMAP_LINEAR, magnify
        out.repeat_x, out.repeat_y = texture.wrap_u == "repeat", texture.wrap_v == "repeat"
        return out

    def _set_camera(self, clip: NDArray[np.float64], c2w: NDArray[np.float64], lit: bool) -> None:
        values: dict[str, Any] = {
            "world_to_clip": np.ascontiguousarray(clip.T, np.float32),
            "eye": tuple(c2w[:3, 3]),
            "forward": tuple(c2w[:3, 2]),
            "lit": int(lit),
        }
        for program in self._programs.values():
            for uniform, value in values.items():
                if uniform in program:
                    if isinstance(value, np.ndarray):
                        program[uniform].write(value)
                    else:
                        program[uniform] = value

    def _draw(
        self,
        targets: _Targets,
        drawables: list[_Drawable],
        runs: list[tuple[int, NDArray[np.uint32]]],
        rect: Rect,
        order: int,
    ) -> None:
        context = self._context
        top, left, bottom, right = rect
        targets.surface.use()
        # All of it: software rasterizers fill whole targets fast, but clear a part by drawing a rectangle.
        targets.surface.clear(0, 0, 0, 0, depth=1.0)
        context.enable_only(moderngl.DEPTH_TEST)
        for drawable in drawables:
            if not drawable.batch.blend:
                count = drawable.batch.faces.size
                drawable.draw("opaque", order * count, count)
        if runs:
            self._draw_blended(targets, [d for d in drawables if d.batch.blend], runs)
        targets.final.use()
        targets.final.viewport = left, top, right - left, bottom - top
        context.enable_only(moderngl.NOTHING)
        for unit, texture in enumerate(targets.fine):
            texture.use(unit)
        self._resolve.render(moderngl.TRIANGLES, vertices=3)

    def _draw_blended(
        self, targets: _Targets, blended: list[_Drawable], runs: list[tuple[int, NDArray[np.uint32]]]
    ) -> None:
        for index, drawable in enumerate(blended):
            drawable.indices.write(np.concatenate([faces for owner, faces in runs if owner == index]))
        targets.blend.use()
        self._context.enable_only(moderngl.DEPTH_TEST | moderngl.BLEND)
        self._context.blend_func = moderngl.ONE, moderngl.ONE_MINUS_SRC_ALPHA
        done = [0] * len(blended)
        for owner, faces in runs:
            blended[owner].draw("blend", done[owner], faces.size)
            done[owner] += faces.size
        targets.blend_geometry.use()
        self._context.enable_only(moderngl.DEPTH_TEST)
        for drawable in blended:
            drawable.draw("blend_geometry")

    def _read(self, targets: _Targets, rect: Rect, frames: Frames, view: int) -> None:
        top, left, bottom, right = rect
        window = left, top, right - left, bottom - top
        pictures: list[NDArray[Any]] = [frames.rgb, frames.alpha, frames.normal, frames.depth]
        for attachment, picture in enumerate(pictures):
            components, dtype = 3 if picture.ndim == 4 else 1, "f1" if picture.dtype == np.uint8 else "f4"
            read = targets.final.read(window, components, attachment=attachment, dtype=dtype)
            part = picture[view, top:bottom, left:right]
            part[...] = np.frombuffer(read, picture.dtype).reshape(part.shape)


def _points(scene: Scene) -> NDArray[np.float32]:
    """(4, N) homogeneous: the vertices that faces use."""
    used = np.concatenate([p.positions[np.unique(p.faces)] for p in scene.primitives])
    return np.stack([*used.T, np.ones(len(used), np.float32)])


def _mirror(texture: Texture) -> tuple[int, int]:
    return int(texture.wrap_u == "mirror"), int(texture.wrap_v == "mirror")


def _texels(texture: Texture | None) -> shaders.Texels:
    if texture is None:
        return "PLAIN"
    return "TEXTURED" if _mirror(texture) == (0, 0) else "MIRRORED"


def _columns() -> list[tuple[str, slice]]:
    return [(name, packing.COLUMNS[name]) for name in ATTRIBUTES]
