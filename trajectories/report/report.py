"""The report: one HTML file that holds everything, and needs nothing. Defines `Report` and `write_report`.

This module turns trajectories into rows and sentences; `report.html.j2` only lays them out. Trajectories are untrusted:
in the page they are JSON in a data block, rendered by `textContent` alone, under a Content-Security-Policy that admits
only the page's own script and style, by hash.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..errors import ConfigError, UnknownName
from ..messages import Cause, Outcome
from ..metrics import EvalSummary, PairedDifference, PassK, Rate, holm, paired_difference, summary
from .embed import Embedded, script_json
from .safe import visible
from .svg import curves, difference_bar, interval_bar
from .words import Arm, condition_names, p_text, percent, points

__all__ = ["Report", "write_report"]


@dataclass(frozen=True)
class Report:
    """What a report is made of."""

    title: str
    intro: str = ""
    """Plain text; an empty line starts a new paragraph."""
    facts: dict[str, str] = field(default_factory=dict)
    """What it takes to get the same numbers: command, versions, seed, hardware, time."""
    arms: Sequence[Arm] = ()
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    """Training stage -> metric rows, each with "step" and numbers."""
    baseline: str = ""
    """Name of the arm that the others are compared with, in pairs; empty: no comparison."""
    headline_arm: str = ""
    """The arm that the first sentence is about. Empty: the best one, and the page says that it was picked so."""
    headline_condition: str = ""
    """Empty: the first condition with a fault plan, else the first one."""


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    sub: str = ""
    bar: Markup | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    label: str
    hint: str
    cells: list[_Cell]


@dataclass(frozen=True, slots=True)
class _Comparison:
    arm: str
    condition: str
    pair: PairedDifference
    adjusted: float


_NOTHING = _Cell("\N{EN DASH}")


def write_report(report: Report, path: str | Path, *, episodes_per_cell: int = 40, max_chars: int = 20_000) -> Path:
    """Write the page to `path`, whole or not at all, and return the path.

    Per arm and condition at most `episodes_per_cell` episodes are embedded, failures and successes in equal parts as
    far as there are any; texts longer than `max_chars` characters are cut, visibly. All numbers are over all episodes.
    Raises `ConfigError` or `UnknownName` for a report that contradicts itself.
    """
    path = Path(path)
    page = _page(report, episodes_per_cell, max_chars).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _page(report: Report, episodes_per_cell: int, max_chars: int) -> str:
    _check(report)
    conditions = condition_names(report.arms)
    sums = {(arm.name, name): summary(arm.conditions[name]) for arm in report.arms for name in arm.conditions}
    pairs = _comparisons(report)
    condition = report.headline_condition or _faulty(report, conditions)
    ends = [abs(v) for c in pairs for v in (c.pair.difference, c.pair.low, c.pair.high) if v is not None]
    scale = max(ends, default=0.0) or 1.0
    embedded = Embedded(episodes_per_cell, max_chars)
    for arm in report.arms:
        for name in arm.conditions:
            embedded.add(arm.name, name, arm.conditions[name])
    view = {
        "report": report,
        "paragraphs": [p for p in report.intro.split("\n\n") if p.strip()],
        "headline": _headline(report, sums, pairs, condition),
        "conditions": conditions,
        "headline_condition": condition,
        "success": [
            _Row(a.name, a.note, [_success_cell(sums.get((a.name, c))) for c in conditions]) for a in report.arms
        ],
        "comparisons": [
            (name, group)
            for name in conditions
            if (group := [(c, _difference_cell(c, scale)) for c in pairs if c.condition == name])
        ],
        "compared": len(pairs),
        "details": [(name, *_details(report, sums, name)) for name in conditions],
        "curves": [curves(stage, rows) for stage, rows in report.curves.items() if rows],
        "data": Markup(script_json(embedded.payload())),
        "shown": len(embedded.episodes),
        "total": sum(s.episodes for s in sums.values()),
        "excluded": sum(s.success.excluded for s in sums.values()),
        "cap": episodes_per_cell,
    }
    source = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    return _jinja().from_string(source).render(view)


def _check(report: Report) -> None:
    names = [arm.name for arm in report.arms]
    if len(set(names)) != len(names):
        raise ConfigError(f"each arm needs a name of its own, got {names}")
    for name in (report.baseline, report.headline_arm):
        if name and name not in names:
            raise UnknownName("arm", name, names)
    if report.headline_condition and report.headline_condition not in condition_names(report.arms):
        raise UnknownName("condition", report.headline_condition, condition_names(report.arms))


@lru_cache(maxsize=1)
def _jinja() -> Environment:
    def clean(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    jinja = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=clean
    )
    jinja.filters["csp"] = lambda text: base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()
    jinja.filters["p"] = lambda p: p_text(p)[1:].removeprefix("=")  # the column's head says "p" already
    return jinja


def _faulty(report: Report, conditions: Sequence[str]) -> str:
    faulty = (c for c in conditions if any(t.faults for a in report.arms for t in a.conditions.get(c, ())))
    return next(faulty, conditions[0] if conditions else "")


def _comparisons(report: Report) -> list[_Comparison]:
    base = next((arm for arm in report.arms if arm.name == report.baseline), None)
    if base is None:
        return []
    found = [
        (arm.name, name, paired_difference(arm.conditions[name], base.conditions[name]))
        for name in base.conditions
        for arm in report.arms
        if arm is not base and name in arm.conditions
    ]
    found = [entry for entry in found if entry[2].pairs]
    adjusted = holm([pair.mcnemar.p for _, _, pair in found])
    return [_Comparison(*entry, p) for entry, p in zip(found, adjusted, strict=True)]


def _headline(
    report: Report, sums: Mapping[tuple[str, str], EvalSummary], pairs: Sequence[_Comparison], condition: str
) -> list[str]:
    """What was measured, in sentences that claim no more than the numbers hold."""
    rates = {a.name: sums[a.name, condition].success for a in report.arms if condition in a.conditions}
    values = {name: r.value for name, r in rates.items() if r.value is not None}
    others = {name: value for name, value in values.items() if name != report.baseline}
    if not values:
        return ["No episode could be judged."] if report.arms else []
    subject = report.headline_arm if report.headline_arm in values else max(others or values, key=values.__getitem__)
    said = [f"Under “{condition}”, {subject} succeeded in {_of(rates[subject])}"]
    if report.baseline in rates and subject != report.baseline:
        said[0] += f"; the baseline {report.baseline} in {_of(rates[report.baseline])}"
    said[0] += "."
    found = next((c for c in pairs if c.arm == subject and c.condition == condition), None)
    if found is not None and found.pair.difference is not None:
        pair = found.pair
        text = f"On {pair.pairs} pairs with the same task and faults the difference is "
        text += f"{points(found.pair.difference)} points"
        if pair.low is not None and pair.high is not None:
            text += f" (95% interval {points(pair.low)} to {points(pair.high)})"
        text += f", exact McNemar {p_text(pair.mcnemar.p)}"
        if len(pairs) > 1:
            text += f", or {p_text(found.adjusted)} after Holm's correction for the {len(pairs)} comparisons made here"
        said.append(text + ("." if found.adjusted < 0.05 else ": not enough to tell the two apart."))
    if subject != report.headline_arm and len(others) > 1:
        said.append(
            f"{subject} was picked as the best of {len(others)} arms by this very number, "
            "so expect somewhat less of it on new tasks."
        )
    return said


def _of(rate: Rate) -> str:
    return f"{percent(rate.value or 0.0)} of {rate.n} episodes (95% interval {_interval(rate)})"


def _interval(rate: Rate) -> str:
    return f"{100 * rate.low:.0f} to {100 * rate.high:.0f}%"


def _rate_cell(rate: Rate) -> _Cell:
    if rate.value is None:
        return _NOTHING
    return _Cell(percent(rate.value), f"{_interval(rate)} · {rate.successes}/{rate.n}", interval_bar(rate))


def _success_cell(found: EvalSummary | None) -> _Cell:
    return _rate_cell(found.success) if found is not None else _NOTHING


def _by(rates: Mapping[Any, Rate], key: str) -> _Cell:
    return _rate_cell(rates[key]) if key in rates else _NOTHING


def _difference_cell(comparison: _Comparison, scale: float) -> _Cell:
    pair = comparison.pair
    sub = "" if pair.low is None or pair.high is None else f"{points(pair.low)} to {points(pair.high)}"
    return _Cell(points(pair.difference or 0.0), sub, difference_bar(pair, scale))


def _number_cell(value: float | None, digits: int = 2) -> _Cell:
    return _NOTHING if value is None else _Cell(f"{value:,.{digits}f}")


def _pass_cell(value: PassK | None) -> _Cell:
    if value is None or value.value is None:
        return _NOTHING
    left = f", {value.too_small} left out" if value.too_small else ""
    return _Cell(percent(value.value), f"k = {value.k}, {value.tasks} tasks{left}")


def _details(
    report: Report, sums: Mapping[tuple[str, str], EvalSummary], condition: str
) -> tuple[list[str], list[_Row], list[_Row], list[_Row]]:
    """Of one condition: the arms that have it, and the rows of behaviour, success by fault and outcome mix."""
    names = [a.name for a in report.arms if condition in a.conditions]
    here = [sums[name, condition] for name in names]

    def row(label: str, hint: str, cell: Callable[[EvalSummary], _Cell]) -> _Row:
        return _Row(label, hint, [cell(s) for s in here])

    recovery = [
        _Row(f"Recovery: {c.value}", "by the failed call's cause", [_by(s.recovery_by_cause, c) for s in here])
        for c in Cause
    ]
    behaviour = [
        row("Recovery", "success, given that a call failed", lambda s: _rate_cell(s.recovery)),
        *recovery,
        row("Handed over, not done", "of the episodes the agent ended itself", lambda s: _rate_cell(s.false_success)),
        row("pass@k", "at least one of k attempts", lambda s: _pass_cell(s.pass_at)),
        row("pass^k", "all of k attempts", lambda s: _pass_cell(s.pass_hat)),
        row("Turns", "per episode", lambda s: _number_cell(s.turns)),
        row("Turns over the expert's", "successes only", lambda s: _number_cell(s.steps_over_optimal)),
        row("Sampled tokens", "per episode", lambda s: _number_cell(s.sampled_tokens, 0)),
        row("Blind retries", "per episode", lambda s: _number_cell(s.blind_retries)),
        row("Duplicate effects", "per episode", lambda s: _number_cell(s.duplicate_effects)),
        row("Reward", "mean", lambda s: _number_cell(s.reward, 3)),
        row("Excluded", "episodes that could not be judged", lambda s: _Cell(str(s.success.excluded))),
    ]
    kinds = sorted({kind for s in here for kind in s.by_fault})
    faults = [_Row(kind or "no fault struck", "", [_by(s.by_fault, kind) for s in here]) for kind in kinds]
    seen = [o for o in Outcome if any(o in s.outcomes for s in here)]
    mix = [_Row(o.value, "", [_number_cell(s.outcomes.get(o, 0.0), 1) for s in here]) for o in seen]
    if mix:
        mix.append(row("calls in all", "", lambda s: _number_cell(s.calls, 0)))
    kept = [r for r in behaviour if any(cell is not _NOTHING for cell in r.cells)]
    return names, kept, faults if kinds != [""] else [], mix
