"""Objects to committed views, end to end, against the plain way, and where the time goes.

    python benchmarks/bench_render.py [FOLDER] [--objects N] [--max-triangles 20000]

FOLDER holds GLBs (default: the built-in procedural objects). The plain way is what one writes first: trimesh loads the
file, pyrender makes a fresh `OffscreenRenderer` per object and one pass per channel (color, depth, normals as vertex
colors), Pillow writes PNG files at level 6. Both ways draw the same 38 cameras at 256² on the same number of processes
and are timed in this run; ratios count, not absolute numbers.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

RESOLUTION = 256
VIEWS = 40


def choose(folder: Path | None, objects: int, triangles: int, work: Path) -> list[Path]:
    """Paths of objects with at most `triangles` triangles."""
    import trimesh

    if folder is None:
        from sar3d.procedural import build_glb, catalog

        for made in catalog(min(objects, 512)):
            (work / f"{made.uid}.glb").write_bytes(build_glb(made.uid))
        return sorted(work.glob("*.glb"))
    found = []
    for path in sorted(folder.rglob("*.glb")):
        if sum(len(g.faces) for g in trimesh.load_scene(path).geometry.values() if hasattr(g, "faces")) <= triangles:
            found.append(path)
    step = max(1, len(found) // objects)
    return found[::step][:objects]


def plain(paths: list[Path]) -> int:
    """The plain way for some objects, in this process; returns the number of views."""
    os.environ.update(PYOPENGL_PLATFORM="egl", LP_NUM_THREADS="1")
    np.infty = np.inf  # pyrender 0.1.45 and NumPy 2
    import pyrender
    import trimesh
    from PIL import Image

    from sar3d.camera_layout import CameraLayoutConfig, cameras
    from sar3d.meshes import load_scene, normalize

    count = 0
    out = Path(tempfile.mkdtemp())
    for path in paths:
        scene = trimesh.load_scene(path)
        # Only to look from the same places; not part of what is timed as the plain way's own work.
        ours, matrix = normalize(load_scene(path))
        layout = cameras(
            CameraLayoutConfig(views=VIEWS), path.stem, np.concatenate([p.positions for p in ours.primitives])
        )
        scene.apply_transform(matrix)
        color = pyrender.Scene.from_trimesh_scene(scene, bg_color=(255, 255, 255, 0), ambient_light=(0.6, 0.6, 0.6))
        normals = pyrender.Scene(bg_color=(0, 0, 0, 0), ambient_light=(1.0, 1.0, 1.0))
        for mesh in scene.dump():
            mesh.visual = trimesh.visual.ColorVisuals(
                mesh, vertex_colors=((mesh.vertex_normals + 1) * 127.5).astype(np.uint8)
            )
            normals.add(pyrender.Mesh.from_trimesh(mesh))
        camera = pyrender.IntrinsicsCamera(
            *[RESOLUTION * layout.K[0, 0, 0]] * 2, RESOLUTION / 2, RESOLUTION / 2, znear=0.1
        )
        renderer = pyrender.OffscreenRenderer(RESOLUTION, RESOLUTION)
        for c2w in layout.c2w:
            pose = c2w @ np.diag([1.0, -1.0, -1.0, 1.0])
            node = color.add(camera, pose=pose)
            picture, _ = renderer.render(color, flags=pyrender.RenderFlags.RGBA)
            depth = renderer.render(color, flags=pyrender.RenderFlags.DEPTH_ONLY)
            color.remove_node(node)
            node = normals.add(camera, pose=pose)
            normal, _ = renderer.render(normals, flags=pyrender.RenderFlags.FLAT)
            normals.remove_node(node)
            channels = {"rgba": picture, "depth": (depth * 10_000).astype(np.uint16), "normal": normal}
            for name, array in channels.items():
                Image.fromarray(array).save(out / f"{path.stem}-{count}-{name}.png", compress_level=6)
            count += 1
        renderer.delete()
    shutil.rmtree(out)
    return count


def ours(paths: list[Path], work: Path, cpus: int) -> tuple[int, float, float]:
    """The stages `download` and `render` on a local Ray; views, seconds of the render stage, seconds of both."""
    from pipelines.registry import STAGES, load
    from pipelines.runtime.engine import run_stage

    folder = work / "objects"
    folder.mkdir()
    for path in paths:
        shutil.copy(path, folder)
    config = load(
        Path(__file__).resolve().parents[1] / "configs" / "objects.yaml",
        [
            f"root={work / 'root'}",
            f"download.directory.path={folder}",
            f"render.views={VIEWS}",
            f"render.resolution={RESOLUTION}",
            f"cluster.cpus={cpus}",
            *("cluster.address=local", "tracking.enabled=false", "render.shard_objects=8"),
        ],
    )
    started = time.perf_counter()
    run_stage(STAGES["download"], config)
    report = run_stage(STAGES["render"], config)
    assert report.failures == 0, report
    return 38 * report.objects, report.seconds, time.perf_counter() - started


def breakdown(paths: list[Path]) -> dict[str, float]:
    """Seconds of one process per step of the render stage."""
    os.environ["LP_NUM_THREADS"] = "1"
    from sar3d.camera_layout import CameraLayoutConfig, cameras
    from sar3d.data.formats.views import encode_view
    from sar3d.meshes import load_scene, normalize
    from sar3d.render import RenderSettings, make_renderer

    renderer = make_renderer("moderngl")
    spent = dict.fromkeys(("load and normalize", "cameras", "draw and read back", "encode PNG"), 0.0)
    for path in paths:
        t0 = time.perf_counter()
        scene, _ = normalize(load_scene(path))
        t1 = time.perf_counter()
        layout = cameras(
            CameraLayoutConfig(views=VIEWS), path.stem, np.concatenate([p.positions for p in scene.primitives])
        )
        t2 = time.perf_counter()
        frames = renderer.render(scene, layout.c2w, layout.K, RenderSettings(RESOLUTION))
        t3 = time.perf_counter()
        for i in range(len(layout.view_ids)):
            encode_view(frames.rgb[i], frames.alpha[i], frames.depth[i], frames.normal[i])
        t4 = time.perf_counter()
        for name, seconds in zip(spent, (t1 - t0, t2 - t1, t3 - t2, t4 - t3), strict=True):
            spent[name] += seconds
    renderer.close()
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--objects", type=int, default=150)
    parser.add_argument("--max-triangles", type=int, default=20_000)
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    log = sys.stdout.write
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        paths = choose(given.folder, given.objects, given.max_triangles, work)
        log(
            f"{len(paths)} objects, {VIEWS} views (38 different) at {RESOLUTION}², {given.cpus} CPUs, {platform.processor()}\n"
        )
        shares = [paths[i :: given.cpus] for i in range(given.cpus)]
        with ProcessPoolExecutor(given.cpus, get_context("spawn")) as pool:
            list(pool.map(plain, [[p] for p in paths[: given.cpus]]))  # imports and drivers, not timed
            started = time.perf_counter()
            views = sum(pool.map(plain, shares))
            plain_seconds = time.perf_counter() - started
        log(f"plain:  {views / plain_seconds:7.1f} views/s ({plain_seconds:.1f} s)\n")
        views, seconds, both = ours(paths, work, given.cpus)
        log(f"sar3d:  {views / seconds:7.1f} views/s ({seconds:.1f} s; {both:.1f} s with start and download)\n")
        log(f"ratio:  {plain_seconds / seconds:7.2f} x (the render stage), {plain_seconds / both:.2f} x (all of it)\n")
        spent = breakdown(paths)
        whole = sum(spent.values())
        for step, part in spent.items():
            log(f"  {step:20} {part:6.2f} s of one process, {100 * part / whole:3.0f} %\n")
        rest = seconds * given.cpus - whole
        log(
            f"  {'the rest':20} {rest:6.2f} s: starting Ray and the drawing processes, pipes, Parquet, commits, pictures\n"
        )


if __name__ == "__main__":
    main()
