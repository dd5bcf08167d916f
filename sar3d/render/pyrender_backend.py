"""The same pictures through pyrender, for machines where it is the one that works.

pyrender brings the EGL context, the upload of meshes, and the pass over a scene. Replaced are its multisampled target
(whose depth is not that of the pixel's center), its shaders (which have no normals), its textures (which are not decoded
before they are filtered) and its order of transparent objects (by object, not by triangle).
"""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from sar3d.render.pyrender_import import egl, egl_api, gl, pyrender, renderer, shader_program
from sar3d.render.sampling import resolve, sample_projection, samples

WHITE = Texture(np.full((1, 1, 4), 255, np.uint8))
COLOR, NORMAL, DISTANCE = gl.GL_COLOR_ATTACHMENT0, gl.GL_COLOR_ATTACHMENT1, gl.GL_COLOR_ATTACHMENT2
DRAW_BUFFERS = {"opaque": [COLOR, NORMAL, DISTANCE], "blend": [COLOR], "blend_geometry": [NORMAL, DISTANCE]}
"""What each fragment shader writes, in the order of its outputs."""
WRAPS = {"repeat": gl.GL_REPEAT, "clamp": gl.GL_CLAMP_TO_EDGE, "mirror": gl.GL_MIRRORED_REPEAT}


class PyrenderRenderer:
    """See `sar3d.render.base.Renderer`. The context is made by the first `render`, on its thread."""

    name: Backend = "pyrender"

    def __init__(self) -> None:
        self._thread = OneThread()
        self._platform: Any = None
        self._gl: Any = None

    def render(self, scene: Scene, c2w: Floats, intrinsics: Floats, settings: RenderSettings) -> Frames:
        """See `sar3d.render.base.Renderer.render`."""
        self._thread.check()
        c2w, intrinsics = check_cameras(c2w, intrinsics)
        refuse_empty_scene(scene)
        self._open()
        frames = Frames.empty(len(c2w), settings.resolution)
        self._gl.viewport_width = self._gl.viewport_height = samples(settings.resolution)
        drawing = _Drawing(scene)
        sphere = bounding_sphere(scene)
        try:
            for view in range(len(c2w)):
                drawing.sort(c2w[view, :3, 2])
                clip = sample_projection(c2w[view], intrinsics[view], settings.resolution, *near_far(sphere, c2w[view]))
                self._gl.set_camera(clip, c2w[view], settings.lit)
                color, normal, distance = self._gl.render(drawing.scene, pyrender.RenderFlags.OFFSCREEN)
                frames.rgb[view], frames.alpha[view] = resolve(color)
                frames.normal[view], frames.depth[view] = normal[1::2, 1::2, :3], distance[1::2, 1::2, 0]
        finally:
            self._gl.forget()
        refuse_blank(scene, frames, c2w, intrinsics)
        return frames

    def close(self) -> None:
        """Release the context and everything in it."""
        if self._platform is None:
            return
        self._thread.check()
        self._platform.make_current()
        self._gl.delete()
        # The platform's own `delete_context` would end the whole EGL display, with every other renderer's context.
        none, display = egl_api.EGL_NO_SURFACE, self._platform._egl_display
        egl_api.eglMakeCurrent(display, none, none, egl_api.EGL_NO_CONTEXT)
        egl_api.eglDestroyContext(display, self._platform._egl_context)
        self._platform = self._gl = None

    def _open(self) -> None:
        if self._platform is None:
            os.environ.setdefault("LP_NUM_THREADS", "1")
            device = int(os.environ.get("EGL_DEVICE_ID") or os.environ.get("GLCONTEXT_DEVICE_INDEX") or "0")
            platform = egl.EGLPlatform(1, 1, device=egl.get_device_by_index(device))
            platform.init_context()
            self._platform, self._gl = platform, _SampleRenderer(1, 1)
        self._platform.make_current()


class _Drawing:
    """One object as a pyrender scene: a mesh of the opaque batches, one of the blended triangles in the view's order,
    and one of the blended triangles that have depth and normal."""

    def __init__(self, scene: Scene) -> None:
        batches = packing.pack(scene)
        self._materials = {id(b): _material(b.texture or WHITE) for b in batches}
        self._blended = [b for b in batches if b.blend]
        self._centroids = [packing.centroids(b) for b in self._blended]
        self._sorted: Any = None
        self.scene = pyrender.Scene(bg_color=np.zeros(4))
        self.scene.add(pyrender.PerspectiveCamera(yfov=1.0))
        self._add("0 opaque", [self._primitive("opaque", b, b.faces) for b in batches if not b.blend])
        self._add("2 blend geometry", [self._primitive("blend_geometry", b, b.faces) for b in self._blended])

    def sort(self, forward: NDArray[np.float64]) -> None:
        """Order the blended triangles for a view along `forward` (3,)."""
        if self._sorted is not None:
            self.scene.remove_node(self._sorted)
        runs = packing.back_to_front(self._blended, self._centroids, forward)
        self._sorted = self._add(
            "1 blend", [self._primitive("blend", self._blended[owner], faces) for owner, faces in runs]
        )

    def _add(self, name: str, primitives: list[Any]) -> Any:
        return self.scene.add(pyrender.Mesh(primitives), name=name) if primitives else None

    def _primitive(self, program: str, batch: packing.Batch, faces: NDArray[np.uint32]) -> Any:
        columns = {name: batch.vertices[:, columns] for name, columns in packing.COLUMNS.items()}
        return _Primitive(
            program,
            positions=columns["position"],
            normals=columns["normal"],
            texcoord_0=columns["uv"],
            texcoord_1=columns["params"],
            color_0=columns["color"],
            indices=faces,
            material=self._materials[id(batch)],
        )


def _material(texture: Texture) -> Any:
    sampler = pyrender.Sampler(
        magFilter=gl.GL_NEAREST if texture.nearest else gl.GL_LINEAR,
        minFilter=gl.GL_LINEAR_MIPMAP_LINEAR,
        wrapS=WRAPS[texture.wrap_u],
        wrapT=WRAPS[texture.wrap_v],
    )
    image = _SrgbTexture(source=texture.pixels, source_channels="RGBA", sampler=sampler)
    return pyrender.MetallicRoughnessMaterial(baseColorTexture=image, doubleSided=True)


class _Primitive(pyrender.Primitive):
    """A primitive that knows its fragment shader."""

    def __init__(self, program: str, **attributes: Any) -> None:
        super().__init__(mode=gl.GL_TRIANGLES, **attributes)
        self.program = program


class _SrgbTexture(pyrender.Texture):
    """A texture decoded by the device before filtering, with row 0 at v = 0."""

    def _add_to_context(self) -> None:
        self._texid = gl.glGenTextures(1)
        gl.glBindTexture(self.tex_type, self._texid)
        height, width = self.source.shape[:2]
        pixels = np.ascontiguousarray(self.source)
        arguments = (gl.GL_SRGB8_ALPHA8, width, height, 0, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE, pixels)
        gl.glTexImage2D(self.tex_type, 0, *arguments)
        gl.glGenerateMipmap(self.tex_type)
        for parameter, value in (
            (gl.GL_TEXTURE_MAG_FILTER, self.sampler.magFilter),
            (gl.GL_TEXTURE_MIN_FILTER, self.sampler.minFilter),
            (gl.GL_TEXTURE_WRAP_S, self.sampler.wrapS),
            (gl.GL_TEXTURE_WRAP_T, self.sampler.wrapT),
        ):
            gl.glTexParameteri(self.tex_type, parameter, value)
        gl.glBindTexture(self.tex_type, 0)


class _Program(shader_program.ShaderProgram):
    """Our sources instead of files."""

    def _load(self, shader_filename: str) -> str:
        vertex = shader_filename.endswith(".vert")
        return shaders.source(shader_filename) if vertex else shaders.surface_fragment(shader_filename, "TEXTURED")


class _SampleRenderer(renderer.Renderer):
    """Draws one sample per target pixel into float targets for color, normal and distance; `render` gives all three."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height)
        self._main_fb: Any = None
        self._main_fb_dims: Any = (None, None)
        self._programs: dict[str, Any] = {}
        self._uniforms: dict[str, Any] = {}

    def set_camera(self, clip: NDArray[np.float64], c2w: NDArray[np.float64], lit: bool) -> None:
        """Values of the shaders' uniforms for the next picture."""
        eye, forward = c2w[:3, 3], c2w[:3, 2]
        self._uniforms = {"world_to_clip": clip, "eye": eye, "forward": forward, "lit": int(lit)}

    def forget(self) -> None:
        """Release the last scene's buffers and textures."""
        self._update_context(pyrender.Scene(), pyrender.RenderFlags.NONE)

    def delete(self) -> None:
        for program in self._programs.values():
            program.delete()
        self._programs = {}
        super().delete()

    def _sorted_mesh_nodes(self, scene: Any) -> list[Any]:
        return sorted(scene.mesh_nodes, key=lambda node: node.name)

    def _bind_lighting(self, scene: Any, program: Any, node: Any, flags: int) -> None:
        """The lights are constants of the shaders."""

    def _get_primitive_program(self, primitive: Any, flags: int, program_flags: int) -> Any:
        if primitive.program not in self._programs:
            program = _Program("surface.vert", primitive.program + ".frag")
            program._add_to_context()
            self._programs[primitive.program] = program
        return self._programs[primitive.program]

    def _bind_and_draw_primitive(self, primitive: Any, pose: Any, program: Any, flags: int) -> None:
        for name, value in self._uniforms.items():
            program.set_uniform(name, value)
        self._bind_texture(primitive.material.baseColorTexture, "base_texture", program)
        blend = primitive.program == "blend"
        buffers = DRAW_BUFFERS[primitive.program]
        gl.glDrawBuffers(len(buffers), buffers)
        gl.glDepthMask(not blend)
        gl.glDisable(gl.GL_CULL_FACE)
        if blend:
            gl.glEnable(gl.GL_BLEND)
            gl.glBlendFunc(gl.GL_ONE, gl.GL_ONE_MINUS_SRC_ALPHA)
        else:
            gl.glDisable(gl.GL_BLEND)
        primitive._bind()
        gl.glDrawElements(gl.GL_TRIANGLES, primitive.indices.size, gl.GL_UNSIGNED_INT, None)
        primitive._unbind()

    def _configure_main_framebuffer(self) -> None:
        size = self.viewport_width, self.viewport_height
        if self._main_fb is not None and self._main_fb_dims != size:
            self._delete_main_framebuffer()
        if self._main_fb is None:
            self._main_cb = gl.glGenRenderbuffers(4)
            self._main_fb = self._main_fb_ms = gl.glGenFramebuffers(1)
            self._main_fb_dims = size
            gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._main_fb)
            targets = (
                (COLOR, gl.GL_RGBA32F),
                (NORMAL, gl.GL_RGBA32F),
                (DISTANCE, gl.GL_R32F),
                (gl.GL_DEPTH_ATTACHMENT, gl.GL_DEPTH_COMPONENT24),
            )
            for buffer, (attachment, layout) in zip(self._main_cb, targets, strict=True):
                gl.glBindRenderbuffer(gl.GL_RENDERBUFFER, buffer)
                gl.glRenderbufferStorage(gl.GL_RENDERBUFFER, layout, *size)
                gl.glFramebufferRenderbuffer(gl.GL_FRAMEBUFFER, attachment, gl.GL_RENDERBUFFER, buffer)
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._main_fb)
        gl.glDrawBuffers(3, [COLOR, NORMAL, DISTANCE])

    def _delete_main_framebuffer(self) -> None:
        if self._main_fb is not None:
            gl.glDeleteFramebuffers(1, [self._main_fb])
            gl.glDeleteRenderbuffers(4, self._main_cb)
        self._main_fb = self._main_fb_ms = self._main_cb = None
        self._main_fb_dims = (None, None)

    def _read_main_framebuffer(self, scene: Any, flags: int) -> tuple[NDArray[np.float32], ...]:
        width, height = self._main_fb_dims
        gl.glBindFramebuffer(gl.GL_READ_FRAMEBUFFER, self._main_fb)
        images = []
        for attachment, layout in ((COLOR, gl.GL_RGBA), (NORMAL, gl.GL_RGBA), (DISTANCE, gl.GL_RED)):
            gl.glReadBuffer(attachment)
            raw = gl.glReadPixels(0, 0, width, height, layout, gl.GL_FLOAT)
            images.append(np.frombuffer(raw, np.float32).reshape(height, width, -1))
        return tuple(images)
