"""Colors of formats that do not name their color space: taken as sRGB, as their writers display them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.meshes.warning_list import WarningList

_FRACTIONS_END = 2.0
"""Floats up to here are fractions of one, some a little too large; beyond, the file counts up to 255."""


def srgb_to_linear(srgb: NDArray[np.floating]) -> NDArray[np.float32]:
    """IEC 61966-2-1, values in [0, 1]."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def linear_colors(colors: NDArray[Any], warnings: WarningList) -> NDArray[np.float32]:
    """(N, 4) linear RGBA of sRGB colors (N, 3) or (N, 4): unsigned integers, or floats up to 1 or up to 255.

    What lies outside the range is clipped, with a warning. Raises ObjectError `non_finite`.
    """
    values = colors.astype(np.float64)
    if not np.isfinite(values).all():
        raise ObjectError("non_finite", "it has colors that are not finite")
    if colors.dtype.kind == "u":
        values /= np.iinfo(colors.dtype).max
    elif values.max(initial=0.0) > _FRACTIONS_END or colors.dtype.kind == "i":
        values /= 255.0
    if values.min(initial=0.0) < 0.0 or values.max(initial=0.0) > 1.0:
        warnings.add("some of its colors lie outside the range of colors and are clipped")
        values = np.clip(values, 0.0, 1.0)
    alpha = values[:, 3:] if values.shape[1] == 4 else np.ones((len(values), 1))
    if alpha.min(initial=1.0) < 1.0:
        warnings.add("its vertex or face colors have an alpha below 1, which is not drawn")
    return np.concatenate([srgb_to_linear(values[:, :3]), alpha.astype(np.float32)], axis=1)
