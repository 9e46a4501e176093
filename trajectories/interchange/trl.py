"""TRL's columns: SFT, prompt and completion, preferences, unpaired preferences.

Defines `sft`, `prompt_completion`, `preference`, `unpaired`; `episodes` reads all four.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ..messages import Json
from ..trajectory import Trajectory
from ._form import FORMS, Exported, ForeignForm, Row, Writer
from ._messages import (
    SourceEpisode,
    as_list,
    as_object,
    both_sides,
    columns_next_to,
    messages_or_text,
    named,
    need,
    shown,
    system_of,
    tools_of,
    weighted,
)
from ._writing import (
    NOT_IN_MESSAGES,
    Arguments,
    all_messages,
    exported,
    message_objects,
    turn_messages,
    with_tools,
    without_turn,
    write_jsonl,
)

if TYPE_CHECKING:
    from ..curation import Pair

__all__ = ["episodes", "preference", "prompt_completion", "sft", "unpaired"]

Span = Literal["episode", "turn"]
"""Of a preference: all that follows the fork, tool results included; or the first action that differs, alone."""


def sft(trajectories: Iterable[Trajectory], *, arguments: Arguments = "object") -> Exported:
    """TRL's conversational SFT: `messages`, and `tools` as JSON text.

    Train with `assistant_only_loss=True`, or tool results are trained too; turn weights are lost. A form that keeps
    them is `prompt_completion`.
    """
    held = list(trajectories)
    rows = [with_tools({"messages": message_objects(all_messages(t), arguments)}, t) for t in held if t.turns]
    return exported("trl-sft", rows, held, NOT_IN_MESSAGES, without_turn(held))


def prompt_completion(trajectories: Iterable[Trajectory], *, arguments: Arguments = "object") -> Exported:
    """TRL's prompt-completion SFT: one row for each turn that has weight, the messages before it as its prompt.

    So nothing but sampled turns is trained (TRL computes the loss on completions), and turns of weight 0 stay context.
    The price is length: a row repeats what came before it.
    """
    held = list(trajectories)
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for t in held:
        trained = [turn for turn in t.turns if turn.weight]
        if not trained:
            left_out["no turn that has weight"] += 1
            continue
        lost["which rows are of one episode"] += len(trained) > 1
        lost["what came after the last trained turn"] += trained[-1] is not t.turns[-1] or bool(trained[-1].observation)
        before = message_objects(list(t.prompt), arguments)
        for turn, of_turn in zip(t.turns, turn_messages(t), strict=True):
            objects = message_objects(of_turn, arguments)
            if turn.weight:
                rows.append(with_tools({"prompt": list(before), "completion": objects[:1]}, t))
            before += objects
    names = (NOT_IN_MESSAGES - {"turn weights"}) | {"turn weights between 0 and 1"}
    return exported("trl-prompt-completion", rows, held, names, left_out, lost)


def preference(pairs: Iterable[Pair], *, span: Span = "episode", arguments: Arguments = "object") -> Exported:
    """TRL's preferences: `prompt` up to the fork, then `chosen` and `rejected`.

    TRL trains every token of a side. With `span="episode"` these are tool results too, which no policy wrote; the
    report counts the pairs concerned. `span="turn"` gives the first action that differs, and nothing else.
    """
    held = list(pairs)
    rows: list[Row] = []
    lost: Counter[str] = Counter()
    for pair in held:
        chosen, rejected = turn_messages(pair.chosen), turn_messages(pair.rejected)
        shared = [m for of_turn in chosen[: pair.fork] for m in of_turn]
        sides = []
        for turns in (chosen, rejected):
            rest = [m for of_turn in turns[pair.fork :] for m in of_turn]
            sides.append(rest[:1] if span == "turn" else rest)
            lost["what came after the first action that differs"] += len(rest) > len(sides[-1])
        lost["which tokens the policy wrote (tool results inside a side are trained)"] += any(
            m.role != "assistant" for side in sides for m in side
        )
        lost["tools of the rejected side"] += pair.rejected.tools != pair.chosen.tools
        row = {
            "prompt": message_objects([*pair.chosen.prompt, *shared], arguments),
            "chosen": message_objects(sides[0], arguments),
            "rejected": message_objects(sides[1], arguments),
        }
        rows.append(with_tools(row, pair.chosen))
    both = [t for pair in held for t in (pair.chosen, pair.rejected)]
    done = exported("trl-preference", rows, both, NOT_IN_MESSAGES, lost=lost)
    return Exported(done.rows, replace(done.report, came_in=len(held)))


def unpaired(trajectories: Iterable[Trajectory], *, arguments: Arguments = "object") -> Exported:
    """TRL's unpaired preferences (KTO): `prompt`, `completion` and `label`, which is success. Only judged episodes."""
    held = list(trajectories)
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    for t in held:
        if not t.judged or not t.turns:
            left_out["no judgement" if t.turns else "no turn"] += 1
            continue
        rest = [m for of_turn in turn_messages(t) for m in of_turn]
        row: Row = {
            "prompt": message_objects(list(t.prompt), arguments),
            "completion": message_objects(rest, arguments),
            "label": t.success,
        }
        rows.append(with_tools(row, t))
    return exported("trl-unpaired", rows, held, NOT_IN_MESSAGES - {"success"}, left_out)


def episodes(row: Json) -> list[SourceEpisode]:
    """`messages`; `prompt` with `completion` (and `label`); `prompt` with `chosen` and `rejected`. Turns of a prompt
    weigh 0. A preference gives two episodes: reward 1 and 0."""
    row = as_object(row, "a record")
    lost: set[str] = set()
    tools = tools_of(row, lost=lost)
    if row.get("messages") is not None:
        about = columns_next_to(row, {"messages", "system"}, lost)
        entries = as_list(row["messages"], "messages")
        return [SourceEpisode([*system_of(row, entries), *weighted(entries, row, lost)], tools, **about)]
    before = [replace(h, weight=0.0) for h in messages_or_text(row.get("prompt"), "user", "prompt")]
    if row.get("completion") is not None:
        label = row.get("label")
        if type(label) is int and label in (0, 1):  # as tables write it
            row = {**row, "label": bool(label)}
            label = row["label"]
        need(label is None or isinstance(label, bool), f"expected a label of true or false, got {shown(label)}")
        about = columns_next_to(row, {"prompt", "completion"}, lost)
        after = row["completion"]
        after = weighted(after, row, lost) if isinstance(after, list) else messages_or_text(after, "assistant", "")
        return [SourceEpisode([*before, *after], tools, **about)]
    need(
        "chosen" in row and "rejected" in row,
        "expected messages, completion, or chosen and rejected, got " + named(row),
    )
    about = columns_next_to(row, {"prompt", "chosen", "rejected"}, lost)
    sides = {side: messages_or_text(row[side], "assistant", side) for side in ("chosen", "rejected")}
    return both_sides(before, sides, tools, about)


FORM = FORMS.register("trl")(
    ForeignForm(
        episodes,
        {
            "trl-sft": Writer(sft, write_jsonl),
            "trl-prompt-completion": Writer(prompt_completion, write_jsonl),
            "trl-preference": Writer(preference, write_jsonl, takes="pairs"),
            "trl-unpaired": Writer(unpaired, write_jsonl),
        },
    )
)
