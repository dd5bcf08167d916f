"""Resident memory of the drawing process over many objects, without recycling it.

    python benchmarks/bench_memory.py [FOLDER] [--objects 1000] [--views 4]

Says the resident memory after every 100 objects, and the growth from the first hundred to the last.
"""

import argparse
import dataclasses
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

import psutil

from sar3d.camera_layout import CameraLayoutConfig
from sar3d.isolation import LimitedProcess, Limits
from sar3d.meshes import MeshLimits


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--backend", default="moderngl")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        paths = sorted(given.folder.rglob("*.glb")) if given.folder else built_in(Path(name))
        report(paths, given.objects, given.views, given.backend)


def built_in(folder: Path) -> list[Path]:
    from sar3d.procedural import build_glb, catalog

    for made in catalog(72):
        (folder / f"{made.uid}.glb").write_bytes(build_glb(made.uid))
    return sorted(folder.iterdir())


def report(paths: list[Path], objects: int, views: int, backend: str) -> float:
    """Draw `objects` objects in one process; returns its growth after the first hundred, in MB."""
    marks = []
    with LimitedProcess("sar3d.render.worker:handle", Limits(120, 8 << 30), recycle_after=objects + 1) as process:
        for i, path in enumerate(islice(cycle(paths), objects), 1):
            process.call(
                {
                    "path": str(path),
                    "root": str(path.parent),
                    "uid": path.stem,
                    "camera_layout": dataclasses.asdict(CameraLayoutConfig(views=views)),
                    "resolution": 256,
                    "backend": backend,
                    "lit": True,
                    "depth_scale": 1e-4,
                    "up": "y",
                    "limits": dataclasses.asdict(MeshLimits()),
                }
            )
            if i % 100 == 0:
                marks.append(psutil.Process(process.pid).memory_info().rss / 1e6)
                sys.stdout.write(f"{i:5} objects: {marks[-1]:7.1f} MB\n")
    growth = marks[-1] - marks[0]
    sys.stdout.write(f"growth after the first 100 objects: {growth:+.1f} MB over {objects - 100} objects ({backend})\n")
    return growth


if __name__ == "__main__":
    main()
