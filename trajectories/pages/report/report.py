"""The report: one HTML file that holds everything, and needs nothing; and the page of a run that goes on.

This module turns trajectories into rows and sentences; `report.html.j2` only lays them out. Trajectories are untrusted:
in the page they are JSON in a data block, rendered by `textContent` alone, under a Content-Security-Policy that admits
only the page's own script and style, by hash.

Defines `Report`, `write_report`, `live_page`, `live_summary`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ...errors import ConfigError, UnknownName
from ...files import write_whole
from ...messages import Cause, Outcome
from ...metrics import (
    ACTIONS,
    EvalSummary,
    PairedDifference,
    PassK,
    Rate,
    Roles,
    after_faults,
    holm,
    not_measured,
    paired_difference,
    right_after_fault,
    success_rate,
    summary,
)
from ...trajectory import Trajectory
from .embed import Decode, Lines, packed, sample
from .safe import visible
from .svg import curves, difference_bar, interval_bar, range_bar, share_bar
from .wording import Arm, condition_names, p_text, percent, points

__all__ = ["Report", "live_page", "live_summary", "write_report"]

_EXTREMES = 5
"""Best and worst episodes that are named."""


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
    decode: Decode | None = None
    """What tells a token's text, such as `token_texts` gives; without it, the viewer shows the ids of tokens."""
    roles: Roles | None = None
    """Which tools wait, log in or are in for another, by environment; None: guessed from their names."""


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


@dataclass(frozen=True, slots=True)
class _HeatCell:
    n: int
    share: str
    """Of the row, in words."""
    shade: int
    """From 0 to 9."""
    fits: bool
    """Whether the fault calls for this action."""


@dataclass(frozen=True, slots=True)
class _Heat:
    """Of one arm: what it did first after each kind of fault."""

    arm: str
    opened: bool
    actions: list[str]
    rows: list[tuple[str, int, list[_HeatCell]]]
    """Fault, how often it struck, and a cell for each action."""


@dataclass(frozen=True, slots=True)
class _Extreme:
    """An episode that is worth reading first."""

    place: int | None
    """How many episodes are before it in the viewer."""
    sign: str
    tone: str
    verdict: str
    about: str
    reward: str
    turns: int
    failed: str
    """Failed calls, in words."""
    faults: str


def write_report(report: Report, path: str | Path, *, episodes_per_cell: int = 200, max_chars: int = 20_000) -> Path:
    """Write the page to `path`, whole or not at all, and return the path.

    Per arm and condition at most `episodes_per_cell` episodes are embedded, failures and successes in equal parts as
    far as there are any; texts longer than `max_chars` characters are cut, visibly. All numbers are over all episodes.
    Raises `ConfigError` or `UnknownName` for a report that contradicts itself.
    """
    path = Path(path)
    page = _page(report, episodes_per_cell, max_chars).encode()
    write_whole(path, lambda part: part.write_bytes(page))
    return path


def live_page(title: str, about: str) -> tuple[str, str]:
    """The page that shows a run as it goes on, without its episodes: it asks for `lines` and `summary` next to it. And
    the Content-Security-Policy to send with it."""
    view = {"title": title, "about": about}
    return _render("live.html.j2", view), f"{_policy()}; connect-src 'self'; frame-ancestors 'none'"


def live_summary(report: Report, lines: Lines, version: str, at_work: str = "") -> str:
    """What is above the episodes of a live page, as HTML of its own; `lines` holds those that can be read, `at_work`
    says which process writes them."""
    _check(report)
    return _render("summary.html.j2", {**_sections(report, lines), "version": version, "at_work": at_work})


def _page(report: Report, episodes_per_cell: int, max_chars: int) -> str:
    _check(report)
    lines = Lines(max_chars=max_chars, decode=report.decode)
    extremes = _extreme_episodes(report)
    wanted = {id(t) for _, ts in extremes for t in ts}
    for arm in report.arms:
        for name, held in arm.conditions.items():
            keep = frozenset(i for i, t in enumerate(held) if id(t) in wanted)
            lines.add(arm.name, name, sample(held, episodes_per_cell, keep))
    view = {
        **_sections(report, lines),
        "paragraphs": [p for p in report.intro.split("\n\n") if p.strip()],
        "data": Markup("\n".join(packed(lines.lines))),
        "cap": episodes_per_cell,
    }
    return _render("report.html.j2", view)


def _sections(report: Report, lines: Lines) -> dict[str, Any]:
    """What all sections show; `lines` knows where an episode is in the viewer."""
    conditions = condition_names(report.arms)
    sums = {(arm.name, name): summary(arm.conditions[name]) for arm in report.arms for name in arm.conditions}
    pairs = _comparisons(report)
    condition = _headline_condition(report)
    ends = [abs(v) for c in pairs for v in (c.pair.difference, c.pair.low, c.pair.high) if v is not None]
    scale = max(ends, default=0.0) or 1.0
    subject = _subject(report, condition)
    return {
        "report": report,
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
        "heats": _heats(report, subject),
        "actions": [(action.replace("_", " "), meaning) for action, meaning in ACTIONS.items()],
        "details": [(name, *_details(report, sums, name)) for name in conditions],
        "curves": [curves(stage, rows) for stage, rows in report.curves.items() if rows],
        "extremes": [
            (title, [_extreme(t, lines.place(subject, condition, t)) for t in ts])
            for title, ts in _extreme_episodes(report)
        ],
        "not_measured": [
            (arm.name, said)
            for arm in report.arms
            if (said := not_measured(t for ts in arm.conditions.values() for t in ts if t.judged))
        ],
        "subject": subject,
        "shown": lines.episodes,
        "total": sum(s.episodes for s in sums.values()),
        "excluded": sum(s.success.excluded for s in sums.values()),
    }


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy() -> str:
    def digest(name: str) -> str:
        return base64.b64encode(hashlib.sha256(_source(name).encode()).digest()).decode()

    return (
        f"default-src 'none'; style-src 'sha256-{digest('style.css')}'; script-src 'sha256-{digest('viewer.js')}'; "
        f"base-uri 'none'; form-action 'none'"
    )


def _render(template: str, view: Mapping[str, Any]) -> str:
    own = {"style": Markup(_source("style.css")), "script": Markup(_source("viewer.js")), "policy": Markup(_policy())}
    return _jinja().get_template(template).render({**own, **view})


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
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=clean,
        loader=FunctionLoader(_source),
    )
    jinja.filters["p"] = lambda p: p_text(p)[1:].removeprefix("=")  # the column's head says "p" already
    return jinja


def _headline_condition(report: Report) -> str:
    conditions = condition_names(report.arms)
    faulty = (c for c in conditions if any(t.faults for a in report.arms for t in a.conditions.get(c, ())))
    return report.headline_condition or next(faulty, conditions[0] if conditions else "")


def _subject(report: Report, condition: str) -> str:
    """The arm that the first sentence is about; empty where nothing was judged."""
    rates = {a.name: success_rate(a.conditions[condition]).value for a in report.arms if condition in a.conditions}
    values = {name: value for name, value in rates.items() if value is not None}
    others = {name: value for name, value in values.items() if name != report.baseline}
    if report.headline_arm in values or not values:
        return report.headline_arm if values else ""
    return max(others or values, key=values.__getitem__)


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
    adjusted = holm([pair.p for _, _, pair in found])
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
    subject = _subject(report, condition)
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
        text += f", exact {'McNemar' if pair.pairs == pair.tasks else 'by task'} {p_text(pair.p)}"
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


def _mix_cell(per_100: float) -> _Cell:
    return _Cell(f"{per_100:.1f}", "", share_bar(per_100 / 100))


def _pass_cell(value: PassK | None) -> _Cell:
    if value is None or value.value is None:
        return _NOTHING
    left = f", {value.too_small} left out" if value.too_small else ""
    return _Cell(percent(value.value), f"k = {value.k}, {value.tasks} tasks{left}")


def _spread(values: Sequence[Sequence[float]], digits: int = 0) -> list[_Cell]:
    """Of each arm: median, and the range of the middle 80 %; one scale for all."""
    found = [np.quantile(v, [0.1, 0.5, 0.9]).tolist() if v else None for v in values]
    top = max((q[2] for q in found if q is not None), default=0.0)
    return [
        _NOTHING
        if q is None
        else _Cell(f"{q[1]:,.{digits}f}", f"{q[0]:,.{digits}f} to {q[2]:,.{digits}f}", range_bar(q[0], q[1], q[2], top))
        for q in found
    ]


def _costs(held: Sequence[Sequence[Trajectory]]) -> list[_Row]:
    """How long episodes were and what they took, judged ones only; one list of episodes an arm."""
    judged = [[t for t in ts if t.judged] for ts in held]

    def row(label: str, hint: str, value: Callable[[Trajectory], float | None], digits: int = 0) -> _Row:
        return _Row(label, hint, _spread([[v for t in ts if (v := value(t)) is not None] for ts in judged], digits))

    rows = [
        row("Turns", "", lambda t: len(t.turns)),
        row("Calls", "", lambda t: sum(len(turn.results) for turn in t.turns)),
        row("Failed calls", "", lambda t: t.failed_calls() if t.outcomes_known else None),
        row("Sampled tokens", "by the policy", lambda t: sum(t.tokens.sampled) if t.tokens else None),
        row("Tokens in all", "prompts and results too", lambda t: len(t.tokens) if t.tokens else None),
        row("Seconds in tools", "wall clock", lambda t: sum(r.latency_s for r in t.results()) or None, 3),
    ]
    return [r for r in rows if any(cell is not _NOTHING for cell in r.cells)]


def _heats(report: Report, subject: str) -> list[_Heat]:
    """One for each arm that a fault struck, over all its conditions."""
    counts = {a.name: after_faults((t for ts in a.conditions.values() for t in ts), report.roles) for a in report.arms}
    seen = {action for found in counts.values() for _, action in found}
    actions = [action for action in ACTIONS if action in seen]
    return [
        _heat(name, name in (subject, report.baseline) or len(counts) == 1, actions, found, report.roles is None)
        for name, found in counts.items()
        if found
    ]


def _heat(arm: str, opened: bool, actions: list[str], counts: Mapping[tuple[str, str], int], guessed: bool) -> _Heat:
    rows = []
    for fault in sorted({fault for fault, _ in counts}):
        right = right_after_fault(fault)
        if guessed and "alternative" in right:  # nobody said which tool that is
            right |= {"other_tool"}
        row = [(action, counts.get((fault, action), 0)) for action in actions]
        total = sum(n for _, n in row)
        cells = [_HeatCell(n, percent(n / total), min(9, round(9 * n / total)), action in right) for action, n in row]
        rows.append((fault, total, cells))
    return _Heat(arm, opened, [action.replace("_", " ") for action in actions], rows)


def _extreme_episodes(report: Report) -> list[tuple[str, list[Trajectory]]]:
    """The best and the worst of the arm and condition that the headline is about; none is in both."""
    condition = _headline_condition(report)
    subject = _subject(report, condition)
    held = next((a.conditions.get(condition, ()) for a in report.arms if a.name == subject), ())
    ranked = sorted((t for t in held if t.judged), key=lambda t: (not t.success, -t.reward, len(t.turns)))
    n = min(_EXTREMES, len(ranked) // 2)
    worst = sorted(ranked[len(ranked) - n :], key=lambda t: (bool(t.success), t.reward, -t.failed_calls()))
    return [("Best", ranked[:n]), ("Worst", worst)] if n else []


def _extreme(t: Trajectory, place: int | None) -> _Extreme:
    return _Extreme(
        place,
        "\N{CHECK MARK}" if t.success else "\N{BALLOT X}",
        "good" if t.success else "bad",
        "success" if t.success else "failure",
        " ".join(t.task.instruction.split())[:160],
        f"{t.reward:.4g}",
        len(t.turns),
        _failures(t),
        ", ".join(dict.fromkeys(t.faults_hit)),
    )


def _failures(t: Trajectory) -> str:
    if not t.outcomes_known:
        return "failed calls not recorded"
    n = t.failed_calls()
    return f"{n} failed call" + "s" * (n != 1)


def _details(
    report: Report, sums: Mapping[tuple[str, str], EvalSummary], condition: str
) -> tuple[list[str], list[_Row], list[_Row], list[_Row], list[_Row]]:
    """Of one condition: the arms that have it; rows of behaviour, success by fault, outcome mix, length and cost."""
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
        row("Handed over, not done", "of the episodes it ended as if done", lambda s: _rate_cell(s.false_success)),
        row("pass@k", "at least one of k attempts", lambda s: _pass_cell(s.pass_at)),
        row("pass^k", "all of k attempts", lambda s: _pass_cell(s.pass_hat)),
        row("Turns over the expert's", "successes only", lambda s: _number_cell(s.turns_over_expert)),
        row("Blind retries", "per episode", lambda s: _number_cell(s.blind_retries)),
        row("Duplicate effects", "per episode", lambda s: _number_cell(s.duplicate_effects)),
        row("Reward", "mean", lambda s: _number_cell(s.reward, 3)),
        row("Excluded", "episodes that could not be judged", lambda s: _Cell(str(s.success.excluded))),
    ]
    kinds = sorted({kind for s in here for kind in s.by_fault})
    faults = [_Row(kind or "no fault struck", "", [_by(s.by_fault, kind) for s in here]) for kind in kinds]
    seen = [o for o in Outcome if any(o in s.outcomes for s in here)]
    mix = [_Row(o.value, "", [_mix_cell(s.outcomes.get(o, 0.0)) for s in here]) for o in seen]
    if mix:
        mix.append(row("calls in all", "", lambda s: _number_cell(s.calls, 0)))
    if any(s.untold for s in here):
        mix.append(row("calls not recorded", "the record does not say how they ended", lambda s: _Cell(str(s.untold))))
    kept = [r for r in behaviour if any(cell is not _NOTHING for cell in r.cells)]
    costs = _costs([a.conditions[condition] for a in report.arms if condition in a.conditions])
    return names, kept, faults if kinds != [""] else [], mix, costs
