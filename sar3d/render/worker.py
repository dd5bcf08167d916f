"""What the drawing process does with one object: load, normalize, place cameras, draw, compress.

`handle` is the target of a `LimitedProcess`; `rows` turns its reply into rows of the `views` dataset. Between the two
there are only JSON and bytes: the process reads hostile files, and nobody unpickles what it says.
"""

from pathlib import Path
from typing import Any

import numpy as np

from sar3d.camera_layout import CameraLayoutConfig, Cameras, cameras
from sar3d.data.formats.views import EncodedView, encode_view, make_rows
from sar3d.meshes import MeshLimits, load_scene, normalize
from sar3d.render import Renderer, RenderSettings, make_renderer

_renderers: dict[str, Renderer] = {}


def handle(request: dict[str, Any], blobs: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """Draw one object; four PNGs per camera (rgb, alpha, depth, normal), in the order of the cameras."""
    limits = MeshLimits(**request["limits"])
    scene = load_scene(Path(request["path"]), Path(request["root"]), limits, request["up"])
    scene, matrix = normalize(scene)
    points = np.concatenate([p.positions[np.unique(p.faces)] for p in scene.primitives])
    layout = cameras(_camera_layout(request["camera_layout"]), request["uid"], points)
    backend = request["backend"]
    if backend not in _renderers:
        _renderers[backend] = make_renderer(backend)
    settings = RenderSettings(resolution=request["resolution"], lit=request["lit"])
    frames = _renderers[backend].render(scene, layout.c2w, layout.K, settings)
    pngs: list[bytes] = []
    for i in range(len(layout.view_ids)):
        view = encode_view(frames.rgb[i], frames.alpha[i], frames.depth[i], frames.normal[i], request["depth_scale"])
        pngs += [view.rgb, view.alpha, view.depth, view.normal]
    reply = {
        "view_ids": list(layout.view_ids),
        "groups": [list(g) for g in layout.groups],
        "c2w": layout.c2w.reshape(-1, 16).tolist(),
        "intrinsics": layout.K.reshape(-1, 9).tolist(),
        "normalisation": matrix.reshape(-1).tolist(),
        "triangles": scene.triangles,
        "warnings": list(scene.warnings),
    }
    return reply, pngs


def _camera_layout(values: dict[str, Any]) -> CameraLayoutConfig:
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return CameraLayoutConfig(**settings)


def rows(request: dict[str, Any], reply: dict[str, Any], blobs: list[bytes]) -> list[dict[str, Any]]:
    """Rows of the `views` dataset from a reply of `handle`."""
    ids = tuple(int(i) for i in reply["view_ids"])
    layout = Cameras(
        view_ids=ids,
        c2w=np.array(reply["c2w"], dtype=np.float64).reshape(-1, 4, 4),
        K=np.array(reply["intrinsics"], dtype=np.float64).reshape(-1, 3, 3),
        groups=tuple(tuple(int(i) for i in g) for g in reply["groups"]),
    )
    encoded = {v: EncodedView(*blobs[4 * i : 4 * i + 4]) for i, v in enumerate(ids)}
    matrix = np.array(reply["normalisation"], dtype=np.float64).reshape(4, 4)
    return make_rows(request["uid"], request["sha256"], layout, encoded, matrix, [str(w) for w in reply["warnings"]])
