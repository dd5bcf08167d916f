"""The frames that systems write in, and what turns them into our world: z up, right-handed, front at -y."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sar3d.geometry import look_at, spherical_to_cartesian

Linear = NDArray[np.float64]
"""(3, 3) orthogonal; of determinant -1 where a documented mirroring is undone."""


class Frame(Protocol):
    """How the axes of a file stand."""

    def to_world(self, elevation: float | None = None, azimuth: float | None = None) -> Linear:
        """What turns points of the file into our world.

        Args:
            elevation: of the camera that the frame belongs to, in degrees, where that is known better; frames that
                belong to no camera do not use it.
            azimuth: of that camera, from the front towards the object's left, in degrees.
        """


@dataclass(frozen=True)
class Axes:
    """A fixed frame, by where the world's axes come from: `Axes("x", "-z", "y")` is glTF's (y up, front at +z)."""

    x: str
    y: str
    z: str

    def to_world(self, elevation: float | None = None, azimuth: float | None = None) -> Linear:
        """See `Frame`."""
        return np.stack([_axis(name) for name in (self.x, self.y, self.z)])


@dataclass(frozen=True)
class FirstCamera:
    """The frame of a camera that looks at the object, with its origin moved to the object: x right, y down, z forward."""

    elevation: float
    """Degrees above the horizon, unless the object's own is known."""
    azimuth: float = 0.0
    """Degrees from the front towards +x, counter-clockwise seen from above."""

    def to_world(self, elevation: float | None = None, azimuth: float | None = None) -> Linear:
        """See `Frame`."""
        pitch = self.elevation if elevation is None else elevation
        turn = self.azimuth if azimuth is None else azimuth
        return np.asarray(look_at(spherical_to_cartesian(1.0, pitch, turn - 90.0))[:3, :3])


def _axis(name: str) -> NDArray[np.float64]:
    sign = -1.0 if name.startswith("-") else 1.0
    return sign * np.eye(3)["xyz".index(name[-1])]


Z_UP = Axes("x", "y", "z")
"""Ours: z up, front at -y."""
GLTF = Axes("x", "-z", "y")
"""y up, front at +z."""
