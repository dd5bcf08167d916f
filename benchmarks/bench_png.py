"""Writing the four PNGs of a view: our writer against Pillow's, in time and size, on renders of the built-in objects.

python benchmarks/bench_png.py [--resolution 256] [--objects 12]
"""

import argparse
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from sar3d.camera_layout import CameraLayoutConfig, cameras
from sar3d.data.formats.png import Filter, write_png
from sar3d.data.formats.views import DEPTH_SCALE
from sar3d.meshes import load_scene, normalize
from sar3d.procedural import build_glb, catalog
from sar3d.render import RenderSettings, make_renderer

FILTERS: dict[str, Filter] = {"rgb": "none", "alpha": "none", "depth": "up", "normal": "up"}


def pictures(objects: int, resolution: int) -> dict[str, list[Any]]:
    """Integer pictures of each kind, as they are stored."""
    found: dict[str, list[Any]] = {name: [] for name in FILTERS}
    renderer = make_renderer("moderngl")
    with TemporaryDirectory() as folder:
        for made in catalog(objects):
            path = Path(folder, "object.glb")
            path.write_bytes(build_glb(made.uid))
            scene, _ = normalize(load_scene(path))
            layout = cameras(
                CameraLayoutConfig(views=12), made.uid, np.concatenate([p.positions for p in scene.primitives])
            )
            frames = renderer.render(scene, layout.c2w, layout.K, RenderSettings(resolution))
            found["rgb"] += list(frames.rgb)
            found["alpha"] += list(frames.alpha)
            found["depth"] += list((frames.depth / DEPTH_SCALE + 0.5).astype(np.uint16))
            found["normal"] += list(((frames.normal + 1) * 127.5 + 0.5).astype(np.uint8))
    renderer.close()
    return found


def pillow(level: int) -> Callable[[Any], bytes]:
    def write(pixels: Any) -> bytes:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG", compress_level=level)
        return out.getvalue()

    return write


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--objects", type=int, default=12)
    given = parser.parse_args()
    found = pictures(given.objects, given.resolution)
    totals: dict[str, float] = {}
    for kind, some in found.items():
        writers = {"pillow 6": pillow(6), "pillow 1": pillow(1), "ours": lambda p, f=FILTERS[kind]: write_png(p, f)}
        for name, write in writers.items():
            started = time.process_time()
            sizes = [len(write(p)) for p in some]
            seconds = (time.process_time() - started) / len(some)
            totals[name] = totals.get(name, 0) + seconds
            sys.stdout.write(f"{kind:7} {name:9} {1e3 * seconds:6.2f} ms {np.mean(sizes) / 1e3:7.1f} KB\n")
    for name, seconds in totals.items():
        sys.stdout.write(f"a view: {name:9} {1e3 * seconds:6.2f} ms, {seconds / totals['ours']:5.1f} x ours\n")


if __name__ == "__main__":
    main()
