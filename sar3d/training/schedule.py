"""Learning-rate schedules: a factor on each group's own rate, as a pure function of the step."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

ScheduleKind = Literal["constant", "cosine", "linear", "lin0"]


@dataclass(frozen=True)
class ScheduleSettings:
    """Learning-rate schedule: linear warm-up from `start`, then `kind` down to `final`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: ScheduleKind = "constant"
    """`constant`; `cosine` and `linear` decay from the end of the warm-up to the last step; `lin0` stays flat for 5 %
    of what follows the warm-up and then decays linearly (the published transformer's schedule)."""
    warmup: int = 0
    """Steps of linear warm-up."""
    start: float = 0.005
    """Factor of the warm-up's first step."""
    final: float = 0.1
    """Factor at the last step."""
    steps: int | None = None
    """Length of the course in steps; by default the length of the run. Fix it where a run may be continued later: else
    a longer run has another course."""


_FLAT = 0.05


def factor(schedule: ScheduleSettings, step: int, steps: int) -> float:
    """What every group's learning rate is multiplied by at `step` (from 0) of a run of `steps`.

    Beyond the end of the course the last value holds. `lin0` is the schedule of published.md, transformer.
    """
    length = schedule.steps or steps
    if step < schedule.warmup:
        return schedule.start + (1 - schedule.start) * step / schedule.warmup
    share = min((step - schedule.warmup) / max(length - 1 - schedule.warmup, 1), 1.0)
    fall = 1 - schedule.final
    match schedule.kind:
        case "constant":
            return 1.0
        case "linear":
            return 1 - fall * share
        case "cosine":
            return schedule.final + fall * 0.5 * (1 + math.cos(math.pi * share))
        case "lin0":
            return 1 - fall * max(share - _FLAT, 0.0) / (1 - _FLAT)
