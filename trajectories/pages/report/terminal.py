"""Results in a terminal or a log file. Defines `text_table`, `leaderboard_table` and `show_trajectory`.

Everything goes through `visible` and `rich.text.Text`, never through markup: what a tool returned can neither colour,
move the cursor, nor forge a line that looks like ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ...disguise import DISGUISE, Disguise
from ...messages import ToolCall
from ...metrics import Spent, Standing, paired_difference, short_plan, success_rate
from ...trajectory import Trajectory
from .safe import visible
from .wording import Arm, arguments, chips, condition_names, p_text, percent, points

__all__ = ["leaderboard_table", "show_trajectory", "text_table"]


def text_table(arms: Sequence[Arm], baseline: str = "", *, title: str = "") -> Table:
    """Success in per cent with its 95 % Wilson interval: arms as rows, conditions as columns.

    With `baseline` (an arm's name), a second line in each cell gives the paired difference in points and its exact
    McNemar p; where tasks were played several times, exact sign flips by task. Four conditions fit into 80 columns
    without colour.
    """
    names = condition_names(arms)
    base = next((arm for arm in arms if arm.name == baseline), None)
    caption = "Success in % [95% Wilson interval], n judged episodes."
    every = [ts for arm in arms for ts in arm.conditions.values()]
    repeated = any(len(ts) > len({(t.env, t.task.id) for t in ts}) for ts in every)
    if repeated:
        caption += " It takes attempts at one task as independent, and the test does not."
    if base is not None:
        test = "exact p by task" if repeated else "exact McNemar p"
        caption += f" Below: points over {baseline}, same tasks and faults, {test}."
    if excluded := sum(success_rate(ts).excluded for ts in every):
        caption += f" Excluded, not judged: {excluded}."
    table = _table(title, caption)
    table.add_column("arm", overflow="fold")
    counts = {name: {success_rate(arm.conditions.get(name, ())).n for arm in arms} - {0} for name in names}
    for name in names:
        size = f"\nn={next(iter(counts[name]))}" if len(counts[name]) == 1 else ""
        table.add_column(Text(visible(name) + size), overflow="fold")
    for arm in arms:
        cells = []
        for name in names:
            rate = success_rate(arm.conditions.get(name, ()))
            cell = "-"
            if rate.value is not None:
                cell = f"{percent(rate.value)} [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
                if len(counts[name]) > 1:
                    cell += f" n={rate.n}"
                if base is not None and arm is not base and name in base.conditions:
                    pair = paired_difference(arm.conditions[name], base.conditions[name], resamples=1)
                    if pair.difference is not None:
                        cell += f"\n{points(pair.difference)} {p_text(pair.p)}"
            cells.append(Text(cell))
        table.add_row(Text(visible(arm.name)), *cells)
    return table


def leaderboard_table(standings: Sequence[Standing], *, title: str = "") -> Table:
    """Agents in order: rank, success in per cent, p against the first, and what it took. Where models count their
    tokens, they and their cost are two columns more; where tasks were played several times, pass^k is one."""
    caption = "Rank: what the paired tests leave open. Success: mean of the conditions in % [95%, tasks drawn]."
    if any(s.p is not None for s in standings):
        caption += " p: against the first, exact, by task, Holm-corrected for all pairs of agents."
    if out := sum(s.excluded for s in standings):
        caption += f" Excluded, not judged: {out}."
    passes = {s.name: s.pass_hat for s in standings if s.pass_hat is not None}
    timed = any(s.seconds is not None for s in standings)
    counted = any(s.spent is not None for s in standings)
    if counted:
        caption += " Tokens and cost: of all episodes, excluded ones too; >: of some answers they are not known."
    table = _table(title, caption)
    table.add_column("agent", overflow="fold")
    table.add_column("rank")
    table.add_column("success")
    if passes:
        ks = {of.k for of in passes.values()}
        table.add_column(Text(f"pass^{ks.pop()}" if len(ks) == 1 else "pass^k"), justify="right")
    table.add_column("p", justify="right")
    table.add_column("episodes", justify="right")
    if timed:
        table.add_column("time", justify="right")
    if counted:
        table.add_column(Text("tokens\nin + out"), justify="right")
        table.add_column(Text("cost\nUS$"), justify="right")
    for s in standings:
        score = "-" if s.score.value is None else percent(s.score.value)
        if s.score.low is not None and s.score.high is not None:
            score += f" [{100 * s.score.low:.0f}, {100 * s.score.high:.0f}]"
        cells = [str(s.best) if s.best == s.worst else f"{s.best}-{s.worst}", score]
        if passes:
            of = passes.get(s.name)
            cells.append("-" if of is None or of.value is None else percent(of.value))
        cells += ["" if s.p is None else p_text(s.p).removeprefix("p").removeprefix("="), str(s.judged)]
        if timed:
            cells.append("-" if s.seconds is None else _clock(s.seconds))
        if counted:
            cells += _spent(s.spent)
        table.add_row(Text(visible(s.name)), *map(Text, cells))
    return table


def _table(title: str, caption: str) -> Table:
    return Table(
        title=Text(visible(title)) if title else None,
        caption=Text(visible(caption)),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption_justify="left",
        title_justify="left",
    )


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.1f} min" if minutes < 60 else f"{hours:.1f} h"


def _spent(total: Spent | None) -> tuple[str, str]:
    """Tokens and cost of an agent, as cells."""
    if total is None:
        return "-", "-"
    more = ">" if total.uncounted else ""
    tokens = f"{more}{_thousands(total.prompt_tokens)} + {_thousands(total.completion_tokens)}"
    if total.unpriced and not total.cost:
        return tokens, "?"
    return tokens, (">" if total.unpriced else "") + (f"{total.cost:.2f}" if total.cost >= 0.1 else f"{total.cost:.4f}")


def _thousands(n: int) -> str:
    return str(n) if n < 10_000 else f"{n / 1e3:.0f}k" if n < 10_000_000 else f"{n / 1e6:.0f}M"


def show_trajectory(trajectory: Trajectory) -> Group:
    """One episode, top to bottom: messages, calls, each result with its outcome, cause, fault and effect in words. One
    in disguise is shown as the agent saw it, under a list of its names."""
    t = trajectory
    verdict = "not judged" if not t.judged else "success" if t.success else "failure"
    if t.judged and "success" in t.meta.get("inferred", ()):
        verdict += " (inferred)"
    tone = "bold" if not t.judged else "bold green" if t.success else "bold red"
    out: list[RenderableType] = [
        _line((f"{t.env} ", "bold"), (f"task {t.task.id} ", ""), (f"episode {t.id}", "dim")),
        _line((verdict, tone), (f"  reward {t.reward:.4g}  stopped: {t.stop.value}  turns {len(t.turns)}", "")),
    ]
    if t.reward_parts:
        out.append(_line(("reward parts: " + ", ".join(f"{k} {v:.4g}" for k, v in t.reward_parts.items()), "dim")))
    if t.faults or t.faults_hit:
        struck = ", ".join(t.faults_hit) or "none"
        out.append(_line((f"faults planned: {short_plan(t.faults) or 'none'}; struck: {struck}", "yellow")))
    if t.error:
        out.append(_line((f"error: {t.error}", "red")))
    if DISGUISE in t.meta:
        legend = Disguise.from_json(t.meta[DISGUISE]).legend()
        out.append(_line((f"in disguise, true name = what the agent saw: {legend}", "dim")))
    for message in t.prompt:
        out += _block(message.role, message.content, "cyan")
    for number, turn in enumerate(t.turns, 1):
        if turn.action.shown or not turn.action.tool_calls:
            out += _block(f"assistant, turn {number}", turn.action.shown, "blue")
        for i, call in enumerate(turn.action.tool_calls):
            out += _block(f"call, turn {number}", _call_text(call), "magenta")
            if i < len(turn.results):
                result = turn.results[i]
                out += _block("result: " + ", ".join(chips(result)), result.content, "green" if result.ok else "red")
        for message in turn.messages:
            out += _block(message.role, message.content, "cyan")
    return Group(*out)


def _call_text(call: ToolCall) -> str:
    """`name {arguments}`, or the raw text of a call that could not be parsed."""
    if call.arguments is None:
        return f"{call.name or '(no name)'} could not be parsed ({call.error or 'no reason given'}): {call.raw}"
    return f"{call.name} {arguments(call)}"


def _line(*parts: tuple[str, str]) -> Text:
    return Text.assemble(*((visible(text).replace("\n", "\\n"), style) for text, style in parts))


def _block(head: str, body: str, style: str) -> list[RenderableType]:
    """A head line, and the body indented under it, wrapped lines too: untrusted text never begins at the margin, where
    the heads are."""
    text = Text(visible(body).expandtabs(4) or "(empty)")
    return [_line((f"-- {head}", style)), Padding(text, (0, 0, 0, 3), expand=False)]
