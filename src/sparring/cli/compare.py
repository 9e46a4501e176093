"""`sparring compare`: what it is called and takes, and what it does.

Only typer and the standard library are imported at the top: help has to be there at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..trajectories.metrics import Comparison, Contrast, Estimate, MeasureRow, PassK, Rate
    from ..trajectories.trajectory import Trajectory

__all__ = ["attach", "compare"]

_SHOWN = 5
"""Names that an error lists."""


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Episodes: .jsonl, a folder of it, or a store.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The same of the other agent; may be A again.")],
    agent_a: Annotated[str, typer.Option("--a", metavar="AGENT", help="Which agent of A, if it holds several.")] = "",
    agent_b: Annotated[str, typer.Option("--b", metavar="AGENT", help="Which agent of B, if it holds several.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object, in place of tables.")] = False,
) -> None:
    """Say whether B is better than A. Same tasks, faults and seeds in pairs, with interval and exact test.

    Each fault plan is a condition of its own, and their p values are corrected for each other.

    \b
    Example:
      sparring compare runs/eval/give-up.jsonl runs/eval/expert.jsonl
      sparring compare runs/eval runs/eval --a give-up --b expert --json
    """
    from ..envs.roles import tool_roles
    from ..trajectories import metrics
    from ..trajectories.pages.report import visible

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
    for sign, both in (("@", found.pass_at), ("^", found.pass_hat)):
        if both is not None:
            said = ", ".join(f"{name} {_pass(of)}" for name, of in zip(found.names, both, strict=True))
            typer.echo(visible(f"pass{sign}{both[0].k}: {said}"))
    for name, out, more in zip(found.names, found.excluded, found.left_out, strict=True):
        left = "".join(f"; left out: {n} {reason}" for reason, n in more.items())
        typer.echo(visible(f"{name}: {out}{left}"))
    for warning in found.warnings:
        typer.echo(visible(f"note: {warning}"))
    typer.echo(visible(f"verdict: {found.verdict}"))


def attach(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(compare)


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


def _names(paths: Sequence[Path], agents: Sequence[str]) -> tuple[str, str]:
    """The agents as chosen, else the files' names, else their whole paths."""
    short = [agent or path.stem or str(path) for path, agent in zip(paths, agents, strict=True)]
    if short[0] == short[1]:
        short = [str(path) for path in paths]
    return (short[0], short[1]) if short[0] != short[1] else ("A", "B")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


# ---- how it is shown -------------------------------------------------------------------------------------------------


def _show(found: Comparison) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from ..app.console import show
    from ..trajectories.pages.report import visible

    def table(caption: str, *heads: str) -> Table:
        made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=Text(caption), caption_justify="left")
        for i, head in enumerate(heads):
            left = i == 0 or head == "over"
            made.add_column(Text(visible(head)), overflow="fold", justify="left" if left else "right")
        return made

    corrected = ", Holm-corrected" if len(found.contrasts) > 1 else ""
    rates = table(
        f"Success with 95% Wilson intervals; B - A with a 95% interval (tasks resampled), p{corrected}.",
        "condition",
        *found.names,
        "B - A",
        "p",
        "pairs",
        "tasks",
    )
    for c in found.contrasts:
        cells = [_rate(c.a), _rate(c.b), _difference(c), _p(c.p_adjusted), str(c.pairs or "-"), str(c.tasks)]
        rates.add_row(Text(visible(c.condition)), *map(Text, cells))
    show(rates)
    others = table(
        "The same episodes, all conditions; B - A with a 95% interval (tasks resampled), not tested.",
        "",
        *found.names,
        "B - A",
        "over",
    )
    for m in found.measures:
        name = m.name + {"more": " ↑", "less": " ↓", "": ""}[m.better]
        others.add_row(*map(Text, (name, _estimate(m.a), _estimate(m.b), _gap(m), m.over)))
    show(others)


def _rate(r: Rate) -> str:
    return "-" if r.value is None else f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}]"


def _pass(p: PassK) -> str:
    interval = "" if p.low is None or p.high is None else f" [{p.low:.2f}, {p.high:.2f}]"
    return "-" if p.value is None else f"{p.value:.2f}{interval}"


def _difference(c: Contrast) -> str:
    return f"{c.difference:+.2f}" + ("" if c.low is None or c.high is None else f" [{c.low:+.2f}, {c.high:+.2f}]")


def _p(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}"


def _estimate(e: Estimate) -> str:
    return "-" if e.value is None else _number(e.value)


def _gap(m: MeasureRow) -> str:
    if m.difference is None:
        return "-"
    interval = "" if m.low is None or m.high is None else f" [{_number(m.low, '+')}, {_number(m.high, '+')}]"
    return _number(m.difference, "+") + interval


def _number(value: float, sign: str = "") -> str:
    return format(value, f"{sign}.2f" if abs(value) < 100 else f"{sign},.0f")
