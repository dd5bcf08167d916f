"""A report as one HTML file that needs no network: everything that it shows is inside.

The content security policy lets two scripts run, named by their digests, and nothing be fetched; text from data is
escaped by the template, and could not run even if it were not.
"""

import base64
import functools
import hashlib
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from pipelines.reporting.content import Chart, Report
from pipelines.reporting.media import packed

_WIDTH, _HEIGHT, _MARGIN = 240, 84, 4
"""Of a chart, in its own units."""


def render(report: Report) -> str:
    """The whole page."""
    viewer = _file("assets/model-viewer.min.js") if report.gallery and report.gallery.objects else ""
    # A source map is a fetch that the page may not make.
    viewer = viewer.rpartition("//# sourceMappingURL=")[0] or viewer
    script = _file("templates/report.js")
    policy = (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; connect-src data: blob:; "
        f"script-src {_digest(script)} {_digest(viewer)} 'wasm-unsafe-eval'; base-uri 'none'; form-action 'none'"
    )
    return _template().render(
        report=report,
        policy=Markup(policy),
        style=Markup(_file("templates/report.css")),
        script=Markup(script),
        viewer=packed(viewer.encode()) if viewer else "",
        total=sum(stage.seconds or 0 for stage in report.stages),
        counts=_counts(report),
    )


def _counts(report: Report) -> list[tuple[str, str]]:
    """The numbers at the top of the page."""
    stages = {stage.name: stage for stage in report.stages}
    made = len(report.gallery.objects) + report.gallery.left_out if report.gallery else 0
    done = sum(stage.state == "done" for stage in report.stages)
    counts = [("stages done", f"{done} of {len(report.stages)}"), ("objects", f"{report.objects:,}")]
    if "cache_tokens" in stages:
        counts.append(("rows of tokens", f"{stages['cache_tokens'].rows:,}"))
    if made:
        counts.append(("generated objects", f"{made:,}"))
    counts.append(("failures", f"{sum(stage.failures for stage in report.stages):,}"))
    return counts


@functools.cache
def _template() -> Any:
    environment = Environment(
        loader=FunctionLoader(lambda name: _file(f"templates/{name}")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "span": span, "moment": moment, "number": number, "curve": curve}
    return environment.get_template("report.html.j2")


def _file(name: str) -> str:
    return resources.files("pipelines.reporting").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" if script else ""


def size(count: int) -> str:
    """Bytes as a person reads them."""
    amount = float(count)
    for unit in ("bytes", "KB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def span(seconds: float | None) -> str:
    """A duration as a person reads it."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def moment(seconds: float | None) -> str:
    """A time of day, in UTC: the page may be read anywhere."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC" if seconds else "–"


def number(value: float) -> str:
    """A metric, in four digits."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def curve(chart: Chart) -> dict[str, Any]:
    """The line of a chart: SVG points in a box of 240 × 84, and the bounds for its labels."""
    steps = [step for step, _ in chart.points]
    values = [value for _, value in chart.points]
    low, high = min(values), max(values)
    across = (_WIDTH - 2 * _MARGIN) / max(steps[-1] - steps[0], 1)
    up = (_HEIGHT - 2 * _MARGIN) / ((high - low) or 1)
    points = [(_MARGIN + (s - steps[0]) * across, _HEIGHT - _MARGIN - (v - low) * up) for s, v in chart.points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return {"line": line, "end": points[-1], "low": low, "high": high, "last": values[-1], "step": steps[-1]}
