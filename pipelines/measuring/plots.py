"""Numbers with their intervals as a picture: a panel for each of the table's first metrics, a mark for each system."""

import io
from collections.abc import Sequence

from pipelines.measuring.lines import FLOOR, TRUTH, Line, headline, rank

_COLUMNS = 3
_MOST = 12
"""Panels."""


def interval_plot(lines: Sequence[Line]) -> bytes | None:
    """A PNG of the lines of all objects that have an interval; None where no line has one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, list[Line]] = {}
    for line in lines:
        if line.low is not None and not line.shift and line.system != TRUTH and headline(line.metric):
            panels.setdefault(line.metric, []).append(line)
    if not panels:
        return None
    shown = sorted(panels, key=rank)[:_MOST]
    tallest = max(len(panels[metric]) for metric in shown)
    rows = -(-len(shown) // _COLUMNS)
    figure = Figure(figsize=(4.2 * min(_COLUMNS, len(shown)), rows * (1.0 + 0.28 * tallest)), layout="constrained")
    FigureCanvasAgg(figure)
    for i, metric in enumerate(shown):
        axes = figure.add_subplot(rows, min(_COLUMNS, len(shown)), i + 1)
        members = panels[metric]
        for place, line in enumerate(members):
            assert line.value is not None
            assert line.low is not None
            assert line.high is not None
            color = "0.6" if line.system == FLOOR else "tab:blue"
            axes.plot([line.low, line.high], [place, place], color=color, linewidth=2)
            axes.plot([line.value], [place], "o", color=color)
        axes.set_yticks(range(len(members)), [line.system for line in members], fontsize=8)
        axes.set_ylim(len(members) - 0.5, -0.5)
        axes.set_title(f"{metric} ({members[0].better} is better)".replace("half is", "0.5 is"), fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()
