"""The procedural world: how fast its objects are planned, built and drawn.

    python benchmarks/bench_world.py [--objects 64] [--views 8] [--resolution 64] [--processes 2] [--plan 10000000]

Building and drawing: each process takes its share of the objects from uid to pictures in memory (file, scene, cameras,
frames). Planning: the listing, its keys, what is covered and the shards, as the engine does it on the driver.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sar3d.camera_layout import CameraLayoutConfig, cameras
from sar3d.meshes import load_scene, normalize
from sar3d.procedural import HeldOutObjects, build_glb, listing
from sar3d.render import RenderSettings, make_renderer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--objects", type=int, default=64)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--plan", type=int, default=0)
    given = parser.parse_args()
    uids = [uid for uid, _ in listing(given.objects)]
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(given.processes + 1)
    times = context.Queue()
    shares = [uids[i :: given.processes] for i in range(given.processes)]
    workers = [
        context.Process(target=draw, args=(share, given.views, given.resolution, ready.wait, times.put))
        for share in shares
    ]
    for worker in workers:
        worker.start()
    ready.wait()
    started = time.perf_counter()
    seconds = np.sum([times.get() for _ in workers], axis=0)
    elapsed = time.perf_counter() - started
    for worker in workers:
        worker.join()
    views = given.objects * given.views
    parts = ", ".join(f"{name} {1e3 * s / given.objects:.1f} ms" for name, s in zip(STEPS, seconds, strict=True))
    sys.stdout.write(
        f"{views / elapsed:.0f} views/s by {given.processes} processes ({given.views} views of an object at "
        f"{given.resolution}²); processor time of an object: {parts}; {views / sum(seconds):.0f} views/s of one core\n"
    )
    if given.plan:
        plan(given.plan)


STEPS = ("build", "load", "cameras", "draw")


def draw(
    uids: list[str], count: int, resolution: int, ready: Callable[[], object], put: Callable[[list[float]], None]
) -> None:
    """Objects from uid to frames; reports processor seconds of each step."""
    renderer, settings, seconds = make_renderer("moderngl"), RenderSettings(resolution), np.zeros(len(STEPS))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "object.glb")
        for number, uid in enumerate([uids[0], *uids]):
            at = [time.process_time()]
            file.write_bytes(build_glb(uid))
            at.append(time.process_time())
            scene, _ = normalize(load_scene(file))
            at.append(time.process_time())
            layout = cameras(CameraLayoutConfig(), uid, np.concatenate([p.positions for p in scene.primitives]))
            at.append(time.process_time())
            renderer.render(scene, layout.c2w[:count], layout.K[:count], settings)
            at.append(time.process_time())
            if number == 0:  # context, shaders, tables
                ready()
            else:
                seconds += np.diff(at)
    renderer.close()
    put(seconds.tolist())


def plan(count: int) -> None:
    from pipelines.runtime.plan import Coverage, Survey, shards
    from pipelines.sources.procedural_source import ProceduralConfig, ProceduralSource

    started, used = time.perf_counter(), time.process_time()
    held_out = HeldOutObjects(pairs=("family", "main"), share=0.2)
    survey = Survey(ProceduralSource(ProceduralConfig(count=count, held_out=held_out)).items())
    made = sum(1 for _ in shards(survey, Coverage(survey).mask, 256, "part"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sys.stdout.write(
        f"{count:,} objects planned in {made:,} shards: {time.perf_counter() - started:.0f} s "
        f"({time.process_time() - used:.0f} s of processor time), {peak:.2f} GB at most\n"
    )


if __name__ == "__main__":
    main()
