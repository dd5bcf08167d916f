"""The configuration of a saved model: what is read, and the sentence for what is not."""

import dataclasses
import json
from typing import Any, Literal

import pytest

from sar3d.errors import UserError
from sar3d.values import read_config


@dataclasses.dataclass(frozen=True)
class Part:
    kind: Literal["round", "square"] = "round"
    sides: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class Whole:
    width: int = 8
    rate: float = 0.1
    name: str = ""
    open: bool = False
    limit: int | None = None
    size: float | Literal["fit"] = "fit"
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    part: Part = dataclasses.field(default_factory=Part)

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"a width of {self.width} is none")


def test_what_was_written_as_json_is_read_back() -> None:
    made = Whole(3, 2.0, "a", True, 4, 1.5, {"any": [1, "thing"]}, Part("square", (3,), (1.0, 2.0)))
    assert read_config(Whole, json.loads(json.dumps(dataclasses.asdict(made)))) == made


def test_what_is_left_out_has_its_default_and_whole_numbers_do_for_fractional_ones() -> None:
    assert read_config(Whole, {}) == Whole()
    read = read_config(Whole, {"rate": 1, "limit": None, "size": 2, "part": {"pair": ["1e-3", 2]}})
    assert read == Whole(rate=1.0, size=2.0, part=Part(pair=(0.001, 2.0)))
    assert isinstance(read.rate, float)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"widht": 3}, "wrong at widht: there is no such setting, only width, rate"),
        ({"width": 1.5}, "wrong at width: 1.5 is not of the type int"),
        ({"width": True}, "wrong at width"),
        ({"open": 1}, "wrong at open"),
        ({"rate": "fast"}, "wrong at rate: 'fast' is no number"),
        ({"limit": "x"}, "wrong at limit"),
        ({"size": "large"}, "wrong at size"),
        ({"part": 3}, "wrong at part: 3 is no table"),
        ({"part": {"kind": "oval"}}, "wrong at part.kind: 'oval' is none of 'round', 'square'"),
        ({"part": {"sides": [1, "2"]}}, "wrong at part.sides.1"),
        ({"part": {"sides": 3}}, "wrong at part.sides: 3 is no list"),
        ({"part": {"pair": [1.0]}}, "wrong at part.pair: .* has 1 entries instead of 2"),
        ({"width": 0}, "a width of 0 is none"),
    ],
)
def test_a_wrong_key_or_value_is_named(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_config(Whole, values)
