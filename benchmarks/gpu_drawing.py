"""A part of `gpu.py`: how fast OpenGL draws without a display, and fresh objects for the tokenizer to learn from."""

import importlib.util
import itertools
import os
import statistics
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from gpu_data import FRESH_SEED, HELD_OUT, RESOLUTION, VIEWS, drawn, write_rows
from gpu_parts import Box, Setting, Values

from sar3d.camera_layout import CameraLayoutConfig, cameras
from sar3d.data.formats.views import views_schema
from sar3d.meshes import Scene, load_scene, normalize
from sar3d.procedural import build_glb, catalog, listing
from sar3d.render import RenderSettings, available, make_renderer

_MOST_FRESH = 20_000
_RESERVE = 5.0
"""Seconds of the box that are left to end processes and close the file."""


def drawing(box: Box, setting: Setting) -> None:
    """Views per second of one process; then as many objects as the time allows, by all cores."""
    if importlib.util.find_spec("moderngl") is None:
        return box.record("moderngl", {"not run": "it is not installed"})
    reason = available("moderngl")
    if reason is not None:
        return box.record("moderngl", {"not run": reason})
    count = 2 if setting.tiny else 24
    for resolution in (64,) if setting.tiny else (64, 256, 512):
        box.attempt(f"one process, {resolution}²", partial(measured, count, resolution))
    box.attempt("fresh objects", partial(fresh, box, setting), _RESERVE)
    return None


def measured(count: int, resolution: int) -> Values:
    """Drawing and reading back color, alpha, depth and normals of objects that are loaded already."""
    scenes = [(made.uid, _scene(made.uid)) for made in catalog(count)]
    layouts = [
        cameras(CameraLayoutConfig(), uid, np.concatenate([p.positions for p in scene.primitives]))
        for uid, scene in scenes
    ]
    renderer = make_renderer("moderngl")
    settings = RenderSettings(resolution)
    renderer.render(scenes[0][1], layouts[0].c2w, layouts[0].K, settings)  # context and shaders
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        for (_, scene), layout in zip(scenes, layouts, strict=True):
            renderer.render(scene, layout.c2w, layout.K, settings)
        rates.append(sum(len(layout.c2w) for layout in layouts) / (time.perf_counter() - began))
    renderer.close()
    import moderngl

    with moderngl.create_standalone_context(backend="egl") as context:
        device = context.info["GL_RENDERER"]
    return {"views_per_second": statistics.median(rates), "device": device}


def _scene(uid: str) -> Scene:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "object.glb")
        file.write_bytes(build_glb(uid))
        return normalize(load_scene(file))[0]


def fresh(box: Box, setting: Setting) -> Values:
    """Objects that nobody has seen, none of a held-out pair, from uid to stored views."""
    count = 4 if setting.tiny else _MOST_FRESH
    uids = [uid for uid, reason in listing(count, FRESH_SEED, HELD_OUT) if not reason]
    processes = min(len(os.sched_getaffinity(0)), 2 if setting.tiny else 32)
    began = time.monotonic()
    file = setting.work / "fresh.parquet"
    with closing(drawn(uids, "moderngl", processes)) as objects:
        in_time = itertools.takewhile(lambda _: box.left() > _RESERVE, objects)
        rows = write_rows(file.with_suffix(".part"), itertools.chain.from_iterable(in_time), views_schema(RESOLUTION))
    file.with_suffix(".part").rename(file)
    rate = rows * VIEWS / (time.monotonic() - began)
    return {"objects": rows, "views_per_second": rate, "processes": processes}
