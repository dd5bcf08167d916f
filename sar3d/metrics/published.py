"""Table 1 of the SAR3D paper (arXiv 2411.16856), as data: what it reports, and how sure the numbers are.

It is not reproducible to the digit: neither the network and the resize of FID and KID, nor the model of MUSIQ, nor the
shapes of COV and MMD were published. Print it beside our numbers, never ranked with them.
"""

from dataclasses import dataclass
from typing import Literal

Metric = Literal["fid", "kid_percent", "musiq", "cov_percent", "mmd_permille", "latency_v100_seconds"]

NOTE = "published; network, resize and subset are not known, so no number of ours is the same quantity"


@dataclass(frozen=True)
class Published:
    """One row of the table."""

    system: str
    """Its importer in `sar3d.compare.SYSTEMS`, or the paper's own two."""
    title: str
    values: dict[Metric, float]
    disputed: dict[Metric, tuple[float, float]]
    """Values that two copies of the table give differently, both: check the paper before quoting one."""


def _row(system: str, title: str, *numbers: float) -> Published:
    names: tuple[Metric, ...] = (
        "fid",
        "kid_percent",
        "musiq",
        "cov_percent",
        "mmd_permille",
        "latency_v100_seconds",
    )
    return Published(system, title, dict(zip(names, numbers, strict=True)), {})


TABLE: tuple[Published, ...] = (
    _row("splatter-image", "Splatter-Image", 48.80, 3.65, 30.33, 37.66, 30.69, 0.83),
    _row("openlrm", "OpenLRM", 38.41, 1.87, 45.46, 39.33, 29.08, 7.21),
    _row("one-2-3-45", "One-2-3-45", 88.39, 6.34, 59.02, 33.33, 35.09, 59.23),
    _row("lara", "LaRa", 43.74, 1.95, 39.37, 39.33, 28.84, 11.93),
    _row("crm", "CRM", 45.53, 1.93, 64.10, 38.83, 28.91, 22.10),
    _row("lgm", "LGM", 19.93, 0.55, 54.78, 50.83, 22.06, 3.87),
    _row("shap-e", "Shap-E", 138.53, 11.95, 31.51, 61.33, 19.17, 9.54),
    _row("ln3diff", "LN3Diff", 29.08, 0.89, 50.39, 55.17, 19.94, 7.51),
    Published(
        "sar3d-nerf",
        "SAR3D-NeRF",
        {"fid": 22.55, "kid_percent": 0.42, "latency_v100_seconds": 1.64},
        {"musiq": (67.24, 65.77), "cov_percent": (71.50, 74.17), "mmd_permille": (15.24, 13.63)},
    ),
    Published(
        "sar3d-flexicubes",
        "SAR3D-FlexiCubes",
        {"fid": 27.30, "kid_percent": 0.63, "latency_v100_seconds": 2.92},
        {"musiq": (65.17, 67.24), "cov_percent": (59.50, 71.50), "mmd_permille": (15.48, 15.25)},
    ),
)
"""All rows, in the paper's order."""

UNITS: dict[Metric, float] = {
    "fid": 1.0,
    "kid_percent": 100.0,
    "musiq": 1.0,
    "cov_percent": 100.0,
    "mmd_permille": 1000.0,
    "latency_v100_seconds": 1.0,
}
"""What a number of ours is multiplied with to stand in the table's unit."""


def markdown() -> str:
    """The table for documents; disputed values are both given."""
    heads = ("system", "FID", "KID, %", "MUSIQ", "COV, %", "MMD, ‰", "latency on V100, s")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in TABLE:
        cells = [_cell(row, metric) for metric in UNITS]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Published, metric: Metric) -> str:
    if metric in row.values:
        return f"{row.values[metric]:.2f}"
    first, second = row.disputed[metric]
    return f"{first:.2f} or {second:.2f}"
