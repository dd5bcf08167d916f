"""The JSON values of a saved model's configuration, checked."""

from typing import Any, TypeVar

from sar3d.errors import UserError

T = TypeVar("T")


def read_config(kind: type[T], values: dict[str, Any]) -> T:
    """A configuration of this dataclass. Raises `UserError` for a key or value that is none."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"the model's configuration is wrong at {key}: {first['msg']}") from error
