"""The paper's table with our numbers beside it, in its units; never ranked together."""

from collections.abc import Sequence

from pipelines.measuring.lines import FLOOR, TRUTH, Line
from sar3d.metrics.published import NOTE, UNITS, Metric, markdown

OURS: dict[Metric, str] = {
    "fid": "fid",
    "kid_percent": "kid",
    "musiq": "musiq_koniq",
    "cov_percent": "cov_chamfer_l2_unit_box",
    "mmd_permille": "mmd_chamfer_l2_unit_box",
    "latency_v100_seconds": "latency_total",
}
"""What of ours is nearest to each of its columns."""


def published_table(lines: Sequence[Line]) -> str:
    """The published rows, then ours under a mark of their own."""
    found = {(line.system, line.metric): line.value for line in lines if not line.shift and line.value is not None}
    systems = dict.fromkeys(line.system for line in lines if line.system not in (TRUTH, FLOOR))
    ours = [
        f"| ours: {system} | {' | '.join(_cell(found.get((system, OURS[m])), m) for m in UNITS)} |"
        for system in systems
    ]
    return (
        f"Published ({NOTE}):\n{markdown()}Measured here; not to be ranked with the rows above:\n"
        + "\n".join(ours)
        + "\n"
    )


def _cell(value: float | None, metric: Metric) -> str:
    return "–" if value is None else f"{value * UNITS[metric]:.2f}"
