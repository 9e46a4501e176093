"""`sparring compare`: whether B is better than A, or what one agent did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o

if TYPE_CHECKING:
    from rich.table import Table

    from ..trajectories.metrics import Comparison, Contrast, Estimate, MeasureRow, PassK, Rate
    from ..trajectories.trajectory import Trajectory

__all__ = ["compare"]

_BETTER = {"more": " ↑", "less": " ↓", "": ""}
_SHOWN = 5
"""Names that an error lists."""


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Episodes: .jsonl, a folder of it, or a store.")],
    b: Annotated[
        Path | None,
        typer.Argument(metavar="[B]", help="The same of the other agent; may be A again. Without it: A's own figures."),
    ] = None,
    agent_a: Annotated[str, typer.Option("--a", metavar="AGENT", help="Which agent of A, if it holds several.")] = "",
    agent_b: Annotated[str, typer.Option("--b", metavar="AGENT", help="Which agent of B, if it holds several.")] = "",
    env: o.Loaded = [],  # noqa: B006  # typer copies it
    json: Annotated[bool, typer.Option("--json", help="One JSON object, in place of tables.")] = False,
) -> None:
    """Say whether B is better than A. Same tasks, faults and seeds in pairs, with interval and exact test.

    Each fault plan is a condition of its own, and their p values are corrected for each other. Without B: all figures
    of A, pass@k and pass^k for every k; where A holds several agents, a leaderboard.

    \b
    Example:
      sparring compare runs/eval
      sparring compare runs/eval/expert.jsonl
      sparring compare runs/eval/give-up.jsonl runs/eval/expert.jsonl
      sparring compare runs/eval runs/eval --a give-up --b expert --json
    """
    from ..envs import make
    from ..envs.roles import tool_roles
    from ..trajectories import metrics
    from ..trajectories.errors import ConfigError
    from ..trajectories.pages.report import visible

    for name in env:
        make(name)  # loads its code
    if b is None:
        if agent_b:
            raise ConfigError(f"--b chooses an agent of B, and no B was given: sparring compare {a} {a} --b {agent_b}")
        if not agent_a and len(held := _by_agent(a)) > 1:
            _several(held, json)
        else:
            _alone(_side(a, agent_a, "--a"), json)
        return
    sides = _side(a, agent_a, "--a"), _side(b, agent_b, "--b")
    names = _names((a, b), (agent_a, agent_b))
    found = metrics.compare(*sides, names=names, roles=tool_roles({t.env for side in sides for t in side}))
    if json:
        import orjson

        typer.echo(orjson.dumps(found.to_dict(), option=orjson.OPT_INDENT_2).decode())
        return
    _show(found)
    if len(found.contrasts) > 1:
        for c in found.contrasts:
            typer.echo(visible(f"{c.condition}: {c.sentence}"))
    for sign, every in (("@", found.pass_at), ("^", found.pass_hat)):
        for both in every:
            said = ", ".join(f"{name} {_pass(of)}" for name, of in zip(found.names, both, strict=True))
            typer.echo(visible(f"pass{sign}{both[0].k}: {said}"))
    for name, out, more in zip(found.names, found.excluded, found.left_out, strict=True):
        left = "".join(f"; left out: {n} {reason}" for reason, n in more.items())
        typer.echo(visible(f"{name}: {out}{left}"))
    for warning in found.warnings:
        typer.echo(visible(f"note: {warning}"))
    typer.echo(visible(f"verdict: {found.verdict}"))


# ---- what is compared ------------------------------------------------------------------------------------------------


def _side(path: Path, agent: str, option: str) -> list[Trajectory]:
    """The episodes of one agent. Raises `DataError`, `ConfigError` or `UnknownName`."""
    from ..app.records import episodes_in
    from ..trajectories.errors import ConfigError, DataError, UnknownName

    held = list(episodes_in(path))
    agents = sorted({t.agent for t in held})
    if agent:
        if agent not in agents:
            raise UnknownName("agent", agent, agents)
        return [t for t in held if t.agent == agent]
    if len(agents) > 1:
        raise ConfigError(f"{path} holds episodes of {len(agents)} agents, choose one by {option}: {_few(agents)}")
    if not held:
        raise DataError(f"{path}: no episode in it")
    return held


def _by_agent(path: Path) -> dict[str, list[Trajectory]]:
    """The episodes of each agent, sorted by name. Raises `DataError`."""
    from ..app.records import episodes_in

    held: dict[str, list[Trajectory]] = {}
    for t in episodes_in(path):
        held.setdefault(t.agent, []).append(t)
    return dict(sorted(held.items()))


def _names(paths: Sequence[Path], agents: Sequence[str]) -> tuple[str, str]:
    """The agents as chosen, else the files' names, else their whole paths."""
    short = [agent or path.stem or str(path) for path, agent in zip(paths, agents, strict=True)]
    if short[0] == short[1]:
        short = [str(path) for path in paths]
    return (short[0], short[1]) if short[0] != short[1] else ("A", "B")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


# ---- all agents ------------------------------------------------------------------------------------------------------


def _several(agents: Mapping[str, Sequence[Trajectory]], json: bool) -> None:
    """Prints a leaderboard."""
    from dataclasses import asdict

    from ..app.console import show
    from ..trajectories.metrics import leaderboard
    from ..trajectories.pages.report import leaderboard_table, visible

    found = leaderboard(agents)
    if json:
        import orjson

        typer.echo(orjson.dumps([asdict(s) for s in found], option=orjson.OPT_INDENT_2).decode())
        return
    envs = sorted({t.env for ts in agents.values() for t in ts})
    show(leaderboard_table(found, title=", ".join(envs)))
    for s in found:
        if s.name != found[0].name and s.pairs < max(s.judged, found[0].judged):
            told = f"note: {s.name} meets {found[0].name} in {s.pairs} pairs; episodes without a partner are in no test"
            typer.echo(visible(told))


# ---- one agent -------------------------------------------------------------------------------------------------------


def _alone(episodes: Sequence[Trajectory], json: bool) -> None:
    """Prints the figures of one agent. Raises `DataError` where none of its episodes was judged."""
    from dataclasses import asdict

    from ..app.playing import by_condition, why_failed
    from ..envs.roles import tool_roles
    from ..trajectories import metrics
    from ..trajectories.errors import DataError
    from ..trajectories.pages.report import visible
    from ..trajectories.trajectory import TrajectoryGroup

    judged = [t for t in episodes if t.judged]
    excluded = metrics.excluded(episodes)
    if not judged:
        raise DataError(str(excluded))
    conditions = by_condition(judged, several=len({t.env for t in judged}) > 1)
    rates = {name: metrics.success_rate(ts) for name, ts in conditions.items()}
    measures = metrics.measure(judged, tool_roles({t.env for t in judged}))
    most = max(len(g.trajectories) for g in TrajectoryGroup.by_task(judged))
    passes = [(metrics.pass_at_k(judged, k), metrics.pass_hat_k(judged, k)) for k in range(1, most + 1)]
    notes = metrics.not_measured(judged)
    if json:
        import orjson

        found = {
            "conditions": {name: asdict(rate) for name, rate in rates.items()},
            "measures": {name: asdict(estimate) for name, estimate in measures.items()},
            "pass_at": [asdict(at) for at, _ in passes],
            "pass_hat": [asdict(hat) for _, hat in passes],
            "excluded": asdict(excluded),
            "notes": notes,
        }
        typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    _show_alone(rates, measures, passes)
    typer.echo(str(excluded))
    for note in notes:
        typer.echo(visible(f"note: {note}"))
    if why := why_failed(judged):
        typer.echo(visible(f"failed episodes ended by: {why}"))
    for of_one in conditions.values():
        if note := metrics.not_struck(of_one):
            typer.echo(visible(f"note: {note}"))


def _show_alone(
    rates: Mapping[str, Rate], measures: Mapping[str, Estimate], passes: Sequence[tuple[PassK, PassK]]
) -> None:
    from rich.text import Text

    from ..app.console import show
    from ..trajectories.metrics import MEASURES
    from ..trajectories.pages.report import visible

    of_conditions = _table("Success with 95% Wilson intervals.", "condition", "success", "episodes")
    for name, rate in rates.items():
        of_conditions.add_row(*map(Text, (visible(name), _rate(rate), str(rate.n))))
    show(of_conditions)
    others = _table("All conditions; 95% intervals (tasks resampled).", "", "value", "interval", "over")
    for m in MEASURES[1:]:
        e = measures[m.name]
        if e.value is not None:
            ends = "-" if e.low is None or e.high is None else f"[{_number(e.low)}, {_number(e.high)}]"
            name = m.name + _BETTER[m.better]
            others.add_row(*map(Text, (name, _estimate(e), ends, f"{e.n:,g} {m.over}")))
    show(others)
    by_k = _table("At least one of k attempts at a task, and all of k.", "k", "pass@k", "pass^k", "tasks")
    for at, hat in passes:
        by_k.add_row(*map(Text, (str(at.k), _pass(at), _pass(hat), str(at.tasks))))
    show(by_k)


# ---- how it is shown -------------------------------------------------------------------------------------------------


def _table(caption: str, *heads: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from ..trajectories.pages.report import visible

    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=Text(caption), caption_justify="left")
    for i, head in enumerate(heads):
        left = i == 0 or head == "over"
        made.add_column(Text(visible(head)), overflow="fold", justify="left" if left else "right")
    return made


def _show(found: Comparison) -> None:
    from rich.text import Text

    from ..app.console import show
    from ..trajectories.pages.report import visible

    corrected = ", Holm-corrected" if len(found.contrasts) > 1 else ""
    rates = _table(
        f"Success with 95% Wilson intervals; B - A with a 95% interval (tasks resampled), p{corrected}.",
        "condition",
        *found.names,
        "B - A",
        "p",
        "pairs",
        "tasks",
    )
    for c in found.contrasts:
        rates_of = (_rate(c.a, "\n"), _rate(c.b, "\n"))  # side by side on one line they are wider than a terminal
        cells = [*rates_of, _difference(c), _p(c.p_adjusted), str(c.pairs or "-"), str(c.tasks)]
        rates.add_row(Text(visible(c.condition)), *map(Text, cells))
    show(rates)
    others = _table(
        "The same episodes, all conditions; B - A with a 95% interval (tasks resampled), not tested.",
        "",
        *found.names,
        "B - A",
        "over",
    )
    for m in found.measures:
        name = m.name + _BETTER[m.better]
        others.add_row(*map(Text, (name, _estimate(m.a), _estimate(m.b), _gap(m), m.over)))
    show(others)


def _rate(r: Rate, between: str = " ") -> str:
    return "-" if r.value is None else f"{_number(r.value)}{between}[{_number(r.low)}, {_number(r.high)}]"


def _pass(p: PassK) -> str:
    interval = "" if p.low is None or p.high is None else f" [{_number(p.low)}, {_number(p.high)}]"
    return "-" if p.value is None else f"{_number(p.value)}{interval}"


def _difference(c: Contrast) -> str:
    interval = "" if c.low is None or c.high is None else f"\n[{_number(c.low, '+')}, {_number(c.high, '+')}]"
    return _number(c.difference, "+") + interval


def _p(p: float) -> str:
    return "<.001" if p < 0.001 else _bare(f"{p:.3f}")


def _estimate(e: Estimate) -> str:
    return "-" if e.value is None else _number(e.value)


def _gap(m: MeasureRow) -> str:
    if m.difference is None:
        return "-"
    interval = "" if m.low is None or m.high is None else f" [{_number(m.low, '+')}, {_number(m.high, '+')}]"
    return _number(m.difference, "+") + interval


def _number(value: float, sign: str = "") -> str:
    return _bare(format(value, f"{sign}.2f" if abs(value) < 100 else f"{sign},.0f"))


def _bare(number: str) -> str:
    """Without the 0 before the point, as the verdict has it: `.88`, `+.05`."""
    digits = number.lstrip("+-")
    return number.replace("0.", ".", 1) if digits.startswith("0.") else number
