"""True objects on a worker: their files, read in a limited process, as placed meshes, and the renderer that draws them."""

from pathlib import Path, PurePosixPath

from pipelines.measuring.config import DrawingSettings
from pipelines.runtime.output import Output
from pipelines.runtime.store import join
from pipelines.sources.config import DownloadConfig, make_source
from sar3d.compare.files import Found
from sar3d.compare.frames import GLTF, Z_UP
from sar3d.compare.load import Loaded, import_process, load_found
from sar3d.compare.place import Placed, place
from sar3d.compare.systems import Layout
from sar3d.errors import ObjectError, UserError
from sar3d.isolation import Limits
from sar3d.meshes import MeshLimits
from sar3d.render import make_renderer

ATTEMPTS = 3
"""Tries at a file whose process was ended by something else than its limits."""


class TrueObjects:
    """Files of the dataset's objects, and of systems, as this worker reads them."""

    def __init__(self, source: DownloadConfig, objects: Output, settings: DrawingSettings, up: str) -> None:
        """`settings` name a renderer; `up` is the axis of files that do not say it."""
        assert settings.backend != "auto"
        self.renderer = make_renderer(settings.backend)
        self._source = make_source(source, join(objects.root, objects.stage, "files"))
        self._process = import_process(Limits(settings.object_seconds, settings.object_memory))
        self._limits = MeshLimits(
            triangles=settings.triangles, texture_pixels=settings.texture_pixels, bytes=settings.file_bytes
        )
        self._up = up

    def placed(self, uid: str, path: str) -> Placed:
        """A true object, its box centered and its longest side 0.9. Raises `ObjectError`."""
        standing = PurePosixPath(path).suffix.lower() not in (".glb", ".gltf") and self._up == "z"
        layout = Layout("mesh", ("{uid}",), Z_UP if standing else GLTF)
        with self._source.open(path) as local:
            found = Found(uid, local, (layout,))
            return place(self.load(found, self._source.root_of(path, local)))

    def load(self, found: Found, root: Path | None = None) -> Loaded:
        """A file. Raises `ObjectError`, with the number of tries as `attempts`."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return load_found(found, self._process, self._limits, root)
            except ObjectError as error:
                if error.kind != "crashed" or attempt == ATTEMPTS:
                    error.attempts = attempt
                    raise
            except UserError:  # it did not even start, which a kill may do once, but not three times
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")
