"""What is kept from training, so that models can be judged by it: one value, passed whole wherever it matters."""

from dataclasses import dataclass
from typing import Any, ClassVar

from sar3d.errors import UserError


@dataclass(frozen=True)
class HeldOut:
    """Views and view groups of every object that no training is given. A number alone counts views."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    views: int = 0
    """Views per object, never encoded in any of its groups, that never supervise; which ones differs by object."""
    view_ids: tuple[int, ...] = ()
    """Ids of views that never supervise, the same for every object; none may be an encoder view."""
    groups: tuple[int, ...] = ()
    """View groups of every object that are no samples; views that only they have never supervise."""

    def __post_init__(self) -> None:
        if self.views < 0:
            raise UserError(f"held_out.views={self.views} is wrong: it is a number of views from 0 on")
        if any(group < 0 for group in self.groups):
            raise UserError(f"held_out.groups={list(self.groups)} is wrong: view groups are numbered from 0")

    def __bool__(self) -> bool:
        """Whether anything is kept."""
        return bool(self.views or self.view_ids or self.groups)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Read `held_out: 5` as `held_out: {views: 5}`."""
        from pydantic_core import core_schema

        def widened(value: Any) -> Any:
            return {"views": value} if isinstance(value, int) and not isinstance(value, bool) else value

        return core_schema.no_info_before_validator_function(widened, handler(source))
