"""Views per second of one renderer in one process, for a machine with a GPU (EGL) or without.

    python benchmarks/bench_draw.py [FOLDER] [--resolution 512] [--backend moderngl] [--objects 24]

Needs numpy, Pillow, pyarrow and moderngl only. Says which OpenGL device drew; set GLCONTEXT_DEVICE_INDEX to choose one.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sar3d.camera_layout import CameraLayoutConfig, cameras
from sar3d.meshes import load_scene, normalize
from sar3d.procedural import build_glb, catalog
from sar3d.render import BACKENDS, RenderSettings, make_renderer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--backend", choices=BACKENDS, default="moderngl")
    parser.add_argument("--objects", type=int, default=24)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        paths = sorted(given.folder.rglob("*.glb")) if given.folder else built_in(Path(name), given.objects)
        scenes = [(p.stem, normalize(load_scene(p))[0]) for p in paths[:: max(1, len(paths) // given.objects)]]
    layouts = [
        cameras(CameraLayoutConfig(), uid, np.concatenate([p.positions for p in s.primitives])) for uid, s in scenes
    ]
    renderer = make_renderer(given.backend)
    settings = RenderSettings(given.resolution)
    renderer.render(scenes[0][1], layouts[0].c2w, layouts[0].K, settings)  # context and shaders
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        views = 0
        for (_, scene), layout in zip(scenes, layouts, strict=True):
            renderer.render(scene, layout.c2w, layout.K, settings)
            views += len(layout.c2w)
        rates.append(views / (time.perf_counter() - started))
    if given.backend == "moderngl":
        import moderngl

        sys.stdout.write(f"device: {moderngl.create_standalone_context(backend='egl').info['GL_RENDERER']}\n")
    triangles = int(np.median([s.triangles for _, s in scenes]))
    sys.stdout.write(
        f"{given.backend} {given.resolution}²: {np.median(rates):.1f} views/s (median of 3; {len(scenes)} objects, "
        f"{triangles:,} triangles in the median one; color, alpha, depth and normals read back)\n"
    )
    renderer.close()


def built_in(folder: Path, count: int) -> list[Path]:
    for made in catalog(count):
        (folder / f"{made.uid}.glb").write_bytes(build_glb(made.uid))
    return sorted(folder.iterdir())


if __name__ == "__main__":
    main()
