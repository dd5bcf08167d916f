"""How view groups become training samples: settings only, nothing heavy is imported."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sar3d.data.held_out import HeldOut
from sar3d.errors import UserError

Unit = Literal["group", "object", "published"]


@dataclass(frozen=True)
class ViewDataConfig:
    """How view groups become samples."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    unit: Unit = "group"
    """`group`: encode the first 6 views of a row, supervise by all of the row. `object`: supervise by every different
    view of the object. `published`: each row of 12 gives two samples, one per half: encode it, supervise by the other
    half and then by itself (published.md, data and training)."""
    supervise: int | None = None
    """Supervising views drawn anew for each sample; none for all of them. Only these are decoded."""
    normals: bool = True
    """Read the normals too."""
    held_out: HeldOut = HeldOut()
    """Views that never supervise and view groups that are no samples; a number alone counts views."""
    val: float = 0.02
    """Share of the objects that validate."""
    test: float = 0.02
    """Share of the objects that test."""
    cache_decoded: bool | Literal["auto"] = field(default="auto", metadata={"identity": False})
    """Keep decoded samples in memory; `auto` where all of them fit into `cache_bytes`."""
    cache_bytes: int = field(default=2 << 30, metadata={"identity": False})
    """Memory for decoded samples on each worker."""
    keep_bytes: int = field(default=512 << 20, metadata={"identity": False})
    """Memory, on each worker, for row groups that may be needed again. A dataset of half this size is shuffled as a
    whole."""
    threads: int = field(default=2, metadata={"identity": False})
    """Threads that decode on each worker."""

    def __post_init__(self) -> None:
        if self.supervise is not None and self.supervise < 1:
            raise UserError(f"supervise={self.supervise} leaves no view to compare with: give 1 or more")
        if self.unit == "published" and (self.supervise or self.held_out):
            raise UserError("the published samples use all 12 views of a row: give no supervise and hold out no views")
