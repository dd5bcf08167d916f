"""What a service allows, and how it works."""

from dataclasses import dataclass, field

from sar3d.errors import UserError
from sar3d.export.config import ExportSettings

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names under which a service that only this machine reaches is called."""


@dataclass(frozen=True)
class ModelSettings:
    """How the models of one replica work."""

    batch: int = 8
    """Samples that are decoded at once, of as many requests as wait."""
    exporters: int = 1
    """Objects that become files at the same time."""
    preview: int = 96
    """Side of a preview picture in pixels."""
    export: ExportSettings = field(default_factory=ExportSettings)
    """How fine the files are; which ones are made, a request says."""
    object_seconds: float = 60.0
    """Time limit for reading and drawing an uploaded object."""
    object_memory: int = 4 << 30
    """Limit of resident memory, in bytes, of the process that does it."""


@dataclass(frozen=True)
class ServiceSettings:
    """Who is let in, and what one request may ask for."""

    hosts: tuple[str, ...] = LOOPBACK
    """Names by which the service may be addressed; requests to others are refused, so that no page of a stranger can have
    a browser talk to it under a name of its own."""
    token: str = ""
    """What clients must show; empty: nothing, for a service that only this machine reaches."""
    queue: int = 64
    """Requests at once, waiting ones included."""
    seconds: float = 120.0
    """Time limit of a request, from its first byte to the last of its answer."""
    upload_bytes: int = 64 << 20
    """Size of a request's body."""
    samples: int = 4
    """Samples of one request."""
    keep_seconds: float = 3600.0
    """How long results are kept."""
    results: str = ""
    """Folder of the results; empty: a new one for temporary files."""
    results_bytes: int = 8 << 30
    """Bytes of all results; the oldest go first."""

    def __post_init__(self) -> None:
        for name in ("queue", "seconds", "upload_bytes", "samples", "keep_seconds", "results_bytes"):
            if not getattr(self, name) > 0:
                raise UserError(f"the service's {name} is {getattr(self, name)}: give a number above 0")
