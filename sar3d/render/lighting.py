"""The lights, once for all renderers, and the sRGB curve.

Lambert in linear light, without shadows: a sky and ground term by the normal's height, plus three directional lights.
All are fixed in the world, not to the camera, so that one point of a surface has one color in every view. The numbers
keep a white surface just below 1 for every normal, so nothing clips.
"""

import numpy as np
from numpy.typing import NDArray

GROUND = 0.26
"""Ambient light on a surface that faces down."""
SKY = 0.38
"""Ambient light on a surface that faces up."""
LIGHTS: tuple[tuple[tuple[float, float, float], float], ...] = (
    ((-0.45, -0.65, 0.61), 0.54),
    ((0.85, -0.40, 0.34), 0.24),
    ((0.05, 0.93, 0.36), 0.28),
)
"""Direction towards the light (normalized where used) and strength: key from the front left above, fill from the right,
rim from behind; the front of a glTF model looks along -y."""


def directions() -> NDArray[np.float64]:
    """(3, 3): one unit vector per light."""
    raw = np.array([direction for direction, _ in LIGHTS])
    unit: NDArray[np.float64] = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    return unit


def irradiance(normal: NDArray[np.floating]) -> NDArray[np.float32]:
    """(..., 3) unit normals, world frame, turned to the camera → (...) factor on the base color, in linear light."""
    up = 0.5 + 0.5 * normal[..., 2]
    lambert = np.maximum(normal @ directions().T.astype(np.float32), 0)
    strengths = np.array([strength for _, strength in LIGHTS], np.float32)
    return np.asarray(GROUND + (SKY - GROUND) * up + lambert @ strengths, np.float32)


def glsl() -> str:
    """`float irradiance(vec3 normal)` for shaders, with the same numbers."""
    terms = " + ".join(
        f"{strength} * max(dot(n, vec3({x:.9f}, {y:.9f}, {z:.9f})), 0.0)"
        for (x, y, z), (_, strength) in zip(directions(), LIGHTS, strict=True)
    )
    return f"float irradiance(vec3 n) {{ return mix({GROUND}, {SKY}, 0.5 + 0.5 * n.z) + {terms}; }}\n"


def srgb_encode(linear: NDArray[np.floating]) -> NDArray[np.floating]:
    """Linear light in [0, 1] → sRGB values in [0, 1] (IEC 61966-2-1)."""
    low = linear * 12.92
    high = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, low, high)


def srgb_decode(encoded: NDArray[np.floating]) -> NDArray[np.floating]:
    """sRGB values in [0, 1] → linear light in [0, 1]."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
