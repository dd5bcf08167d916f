"""Rows of the Parquet datasets."""

from typing import Any

Row = dict[str, Any]
"""Column to value, as `pyarrow.Table.to_pylist` gives it."""
