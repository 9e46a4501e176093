"""The report's drawings: small inline SVGs, drawn here so that the page needs no plotting library.

Defines `interval_bar`, `difference_bar`, `range_bar`, `share_bar`, `curves`. Colours come from the page's classes, so
that light and dark need one drawing; presentation attributes only, for the page's Content-Security-Policy forbids
`style=`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ...metrics import PairedDifference, Rate
from .safe import visible

__all__ = ["Curves", "curves", "difference_bar", "interval_bar", "range_bar", "share_bar"]

_METRICS = (
    "loss", "reward", "reward_mean", "success", "success_rate", "recovery", "accuracy", "margin", "entropy", "kl",
    "signal", "grad_norm", "clip_fraction", "value_loss", "lr",
)  # fmt: skip
"""What is drawn, in this order, where a row has it (`train/loss` counts as `loss`)."""
_MOST = 8
_POINTS = 200


@dataclass(frozen=True, slots=True)
class Curves:
    """One stage's small multiples."""

    stage: str
    figures: list[Markup]
    rows: int
    bin: int
    """Rows averaged into one point; 1: every row is drawn."""
    others: list[str]
    """Numeric metrics that were logged and not drawn."""


def interval_bar(rate: Rate) -> Markup:
    """Value and interval on a scale from 0 to 1."""
    if rate.value is None:
        return Markup("")
    low, high, at = 100 * rate.low, 100 * rate.high, 100 * rate.value
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" x="0" y="4" width="100" height="2"/>'
        f'<rect class="band" x="{low:.2f}" y="2" width="{max(high - low, 0.5):.2f}" height="6"/>'
        f'<rect class="mark" x="{min(max(at - 0.6, 0), 98.8):.2f}" y="0" width="1.2" height="10"/></svg>'
    )


def difference_bar(difference: PairedDifference, scale: float) -> Markup:
    """Difference and interval on a scale from -scale to scale, with zero marked."""
    if difference.difference is None:
        return Markup("")

    def x(value: float) -> float:
        return 50 + 50 * max(-1.0, min(1.0, value / scale))

    at = x(difference.difference)
    band = ""
    if difference.low is not None and difference.high is not None:
        low, high = x(difference.low), x(difference.high)
        band = f'<rect class="band" x="{low:.2f}" y="2" width="{max(high - low, 0.5):.2f}" height="6"/>'
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" x="0" y="4.5" width="100" height="1"/>{band}'
        '<rect class="zero" x="49.8" y="0" width="0.4" height="10"/>'
        f'<rect class="mark" x="{min(max(at - 0.6, 0), 98.8):.2f}" y="0" width="1.2" height="10"/></svg>'
    )


def share_bar(share: float) -> Markup:
    """A share on a scale from 0 to 1, as a plain bar."""
    width = 100 * max(0.0, min(1.0, share))
    return Markup(
        '<svg class="bar thin" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" x="0" y="4" width="100" height="2"/>'
        f'<rect class="fill" x="0" y="2.5" width="{width:.2f}" height="5"/></svg>'
    )


def range_bar(low: float, middle: float, high: float, top: float) -> Markup:
    """Three quantiles on a scale from 0 to `top`."""
    left, at, right = (100 * max(0.0, min(1.0, v / top)) if top > 0 else 0.0 for v in (low, middle, high))
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" x="0" y="4.5" width="100" height="1"/>'
        f'<rect class="band" x="{left:.2f}" y="2" width="{max(right - left, 0.8):.2f}" height="6"/>'
        f'<rect class="mark" x="{min(max(at - 0.6, 0), 98.8):.2f}" y="0" width="1.2" height="10"/></svg>'
    )


def curves(stage: str, rows: Sequence[Mapping[str, float]]) -> Curves:
    """The metrics of one training stage over its steps. A row without "step" is at its index."""
    names: dict[str, None] = {}  # an ordered set
    for row in rows:
        names.update(dict.fromkeys(k for k, v in row.items() if k != "step" and _number(v)))
    known = [n for m in _METRICS for n in names if n.replace(".", "/").rsplit("/", 1)[-1] == m]
    chosen = (known or list(names))[:_MOST]
    bin_size = max(1, math.ceil(len(rows) / _POINTS))
    steps = [float(row["step"]) if _number(row.get("step")) else float(i) for i, row in enumerate(rows)]
    figures = []
    for name in chosen:
        points = []
        for start in range(0, len(rows), bin_size):
            here = range(start, min(start + bin_size, len(rows)))
            values = [(steps[i], float(rows[i][name])) for i in here if _number(rows[i].get(name))]
            if values:
                points.append((sum(s for s, _ in values) / len(values), sum(v for _, v in values) / len(values)))
        figures.append(_figure(name, points, (min(steps), max(steps))))
    return Curves(stage, figures, len(rows), bin_size, [n for n in names if n not in chosen])


def _figure(name: str, points: Sequence[tuple[float, float]], extent: tuple[float, float]) -> Markup:
    """One metric over steps, 300 x 176 units, axes labelled, the last value written out."""
    left, right, top, bottom = 46.0, 290.0, 12.0, 138.0
    x_low, x_high = extent if extent[1] > extent[0] else (extent[0] - 0.5, extent[0] + 0.5)
    values = [v for _, v in points]
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(high), abs(low), 1e-90):  # constant, as far as an axis can tell
        pad = abs(high) * 0.1 or 0.5
        low, high = low - pad, high + pad
    y_ticks = _ticks(low, high, 4)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])

    def x(step: float) -> float:
        return left + (right - left) * (step - x_low) / (x_high - x_low)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    parts = []
    for tick in y_ticks:
        at = y(tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{at + 3.5:.1f}" text-anchor="end">{_label(tick)}</text>')
    for tick in _ticks(x_low, x_high, 4):
        if x_low <= tick <= x_high:
            parts.append(f'<line class="tick" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
            parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{_label(tick)}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text class="name" x="{(left + right) / 2}" y="{bottom + 33}" text-anchor="middle">step</text>')
    if len(points) > 1:
        path = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in points)
        parts.append(f'<polyline class="line" points="{path}"/>')
    end_step, end = points[-1]
    parts.append(f'<circle class="dot" cx="{x(end_step):.1f}" cy="{y(end):.1f}" r="2.6"/>')
    shown = escape(visible(name))
    said = f"{shown} over steps {_label(extent[0])} to {_label(extent[1])}: from {values[0]:.4g} to {end:.4g}"
    return Markup(
        f"<figure><figcaption><b>{shown}</b> <span>{values[0]:.3g} &rarr; {end:.3g}</span></figcaption>"
        f'<svg class="curve" viewBox="0 0 300 176" role="img" aria-label="{said}">{"".join(parts)}</svg></figure>'
    )


def _number(value: object) -> bool:
    # What diverged beyond 1e100 is no more drawable than infinity.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e100


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers that span [low, high], roughly `about` of them."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _label(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e4 or abs(value) < 1e-3:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")
