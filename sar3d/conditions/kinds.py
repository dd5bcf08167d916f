"""The kinds of conditions that generators take."""

from typing import Literal, get_args

ConditionKind = Literal["text", "image"]
CONDITION_KINDS: tuple[ConditionKind, ...] = get_args(ConditionKind)
