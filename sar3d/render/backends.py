"""Which renderers work on this machine, and which to take."""

import os
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import cast

from sar3d.errors import UserError
from sar3d.render.base import BACKENDS, Backend, Renderer

CLASSES: dict[Backend, tuple[str, str]] = {
    "moderngl": ("sar3d.render.moderngl_backend", "ModernGLRenderer"),
    "pyrender": ("sar3d.render.pyrender_backend", "PyrenderRenderer"),
    "raycast": ("sar3d.render.raycast", "RaycastRenderer"),
}
EGL_ADVICE = (
    "install the GPU driver's EGL library, or Mesa's software renderer "
    "(Debian packages libegl1 libegl-mesa0 libgl1-mesa-dri)"
)
ADVICE: dict[Backend, str] = {
    "moderngl": EGL_ADVICE,
    "pyrender": EGL_ADVICE,
    "raycast": "install the Python package embreex",
}
PROBE_SECONDS = 120.0
"""A probe that takes longer is taken for a hanging driver; a cold start on a busy machine takes ten."""


def make_renderer(backend: Backend) -> Renderer:
    """A renderer that has not touched the graphics driver yet; its modules are imported now."""
    module, name = CLASSES[backend]
    return cast(Renderer, getattr(import_module(module), name)())


@cache
def available(backend: Backend) -> str | None:
    """None if `backend` draws a known scene correctly here, else why not, in one sentence.

    The answer is found in a process of its own, since a bad graphics driver can crash, and kept for this process.
    """
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", "sar3d.render.probe", backend]
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _sentence(backend, f"it drew nothing within {PROBE_SECONDS:.0f} s")
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return _sentence(backend, f"its driver crashed with signal {-done.returncode}")
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return _sentence(backend, lines[-1] if lines else f"it ended with exit code {done.returncode}")


def _sentence(backend: Backend, cause: str) -> str:
    return f"The {backend} renderer does not work on this machine ({cause}): {ADVICE[backend]}."


def pick_backend(requested: str) -> Backend:
    """The renderer to use: `requested`, or the first that works if it is "auto" (moderngl, pyrender, raycast).

    UserError if the name is unknown, the named renderer does not work, or none does.
    """
    if requested == "auto":
        reasons = []
        for backend in BACKENDS:
            reason = available(backend)
            if reason is None:
                return backend
            reasons.append(reason)
        raise UserError("No renderer works on this machine. " + " ".join(reasons))
    if requested not in BACKENDS:
        raise UserError(
            f"There is no renderer {requested!r}: choose auto, {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}."
        )
    chosen = BACKENDS[BACKENDS.index(requested)]
    reason = available(chosen)
    if reason is not None:
        raise UserError(reason)
    return chosen
