"""`pyrender`, made importable: it asks for a name that NumPy 2 dropped, and reads its platform from the environment."""

import importlib
import os
from typing import Any

import numpy as np

if not hasattr(np, "infty"):
    setattr(np, "infty", np.inf)  # noqa: B010
os.environ["PYOPENGL_PLATFORM"] = "egl"

pyrender: Any = importlib.import_module("pyrender")
renderer: Any = importlib.import_module("pyrender.renderer")
shader_program: Any = importlib.import_module("pyrender.shader_program")
egl: Any = importlib.import_module("pyrender.platforms.egl")
gl: Any = importlib.import_module("OpenGL.GL")
egl_api: Any = importlib.import_module("OpenGL.EGL")
