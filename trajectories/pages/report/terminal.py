"""Results in a terminal or a log file. Defines `text_table` and `show_trajectory`.

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
from ...metrics import Spent, paired_difference, short_plan, spent, success_rate
from ...trajectory import Trajectory
from .safe import visible
from .wording import Arm, arguments, chips, condition_names, p_text, percent, points

__all__ = ["show_trajectory", "text_table"]


def text_table(arms: Sequence[Arm], baseline: str = "", *, title: str = "") -> Table:
    """Success in per cent with its 95 % Wilson interval: arms as rows, conditions as columns.

    With `baseline` (an arm's name), a second line in each cell gives the paired difference in points and its exact
    McNemar p. Four conditions fit into 80 columns without colour. Where a model counts its tokens, they and their cost
    are two columns more.
    """
    names = condition_names(arms)
    base = next((arm for arm in arms if arm.name == baseline), None)
    caption = "Success in % [95% Wilson interval], n judged episodes."
    if base is not None:
        caption += f" Below: points over {baseline}, same tasks and faults, exact McNemar p."
    excluded = sum(success_rate(ts).excluded for arm in arms for ts in arm.conditions.values())
    if excluded:
        caption += f" Excluded, not judged: {excluded}."
    if any(spent(ts) for arm in arms for ts in arm.conditions.values()):
        caption += " Tokens and cost: of all episodes, excluded ones too; >: of some answers they are not known."
    table = Table(
        title=Text(visible(title)) if title else None,
        caption=Text(visible(caption)),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption_justify="left",
        title_justify="left",
    )
    table.add_column("arm", overflow="fold")
    counts = {name: {success_rate(arm.conditions.get(name, ())).n for arm in arms} - {0} for name in names}
    for name in names:
        size = f"\nn={next(iter(counts[name]))}" if len(counts[name]) == 1 else ""
        table.add_column(Text(visible(name) + size), overflow="fold")
    costs = {arm.name: spent(t for ts in arm.conditions.values() for t in ts) for arm in arms}
    if any(costs.values()):
        table.add_column(Text("tokens\nin + out"), justify="right")
        table.add_column(Text("cost\nUS$"), justify="right")
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
                        cell += f"\n{points(pair.difference)} {p_text(pair.mcnemar.p)}"
            cells.append(Text(cell))
        if any(costs.values()):
            cells += map(Text, _spent(costs[arm.name]))
        table.add_row(Text(visible(arm.name)), *cells)
    return table


def _spent(total: Spent | None) -> tuple[str, str]:
    """Tokens and cost of an arm, as cells."""
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
