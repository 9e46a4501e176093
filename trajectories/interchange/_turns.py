"""From the messages of a source to the turns of an episode: results to their calls, outcomes, weights.

Defines `episode_of`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import orjson

from ..errors import DataError
from ..giving_up import says_it_cannot
from ..messages import Action, Cause, Json, Message, Outcome, ToolCall, ToolResult
from ..trajectory import StopReason, Task, Tokens, Trajectory, Turn
from ._failures import Failures
from ._messages import BEYOND, SourceEpisode, SourceMessage, clean, fitting, need, thought_text

BY_ORDER = "which result is of which call (by their order)"
TOO_LARGE = "arguments beyond 64 bits, 64 levels or with a key twice (kept as text)"

Reasoning = Literal["drop", "keep"]

_THOUGHT = re.compile(r"<think>.*?</think>|^.*?</think>", re.DOTALL)


def episode_of(e: SourceEpisode, where: str, form: str, failures: Failures, reasoning: Reasoning) -> Trajectory:
    """The episode, its turns in order. What is not held is added to `e.lost`.

    Args:
        e: The conversation, as a form has read it.
        where: Its place in the file: makes its id.
        form: The form's name.
        failures: Which results failed, where the source does not say.
        reasoning: What becomes of thoughts that are apart from the text.

    Raises `DataError` for messages that are not one conversation.
    """
    source = [_thoughtful(m, reasoning, e.lost) for m in _numbered(e)]
    for m in source:
        e.lost |= m.lost
    first = next((i for i, m in enumerate(source) if m.message.role == "assistant"), len(source))
    need(first < len(source) or bool(e.whole), "no message of an assistant in it: nothing was done")
    prompt = tuple(m.message for m in source[:first])
    need(all(m.role != "tool" for m in prompt), "a tool's result before any call")
    turns = _cut(source[first:], {spec.name for spec in e.tools}, failures, e.weight)
    if any(_is_beyond(call) for turn in turns for call in turn.action.tool_calls):
        e.lost.add(TOO_LARGE)
    tokens, spans = _tokens(source)
    if spans is not None:
        turns = [replace(turn, span=span) for turn, span in zip(turns, spans, strict=True)]
    if e.whole:
        need(len(e.turns) == len(turns), f"{len(turns)} messages of the agent, and {len(e.turns)} turns")
        turns = [replace(turn, **more) for turn, more in zip(turns, e.turns, strict=True)]
    inferred = list(e.inferred)
    if any(r.inferred for turn in turns for r in turn.results):
        inferred.append("outcomes")
    stop = e.stop
    if stop is None:
        stop = _stop(source, turns[-1].action)
        if stop is StopReason.TERMINATED:  # the record ends with a call; whose doing that was it does not say
            inferred.append("stop")
    data = fitting(e.data)
    if data != e.data:
        e.lost.add("digits of numbers beyond 64 bits")
    instruction = e.instruction or next((m.content for m in prompt if m.role == "user"), "")
    meta: dict[str, Json] = {"from": form, **e.meta} | ({"source": e.source} if e.source else {})
    if inferred:
        meta["inferred"] = list(dict.fromkeys(inferred))
    task_id = e.task_id
    if not task_id:
        task_id, meta["task_from"] = _hash([form], prompt), "prompt"
    made = Trajectory(
        id=_hash([form, where, e.source], (m.message for m in source)),
        env=e.env or f"imported/{form}",
        task=Task(instruction, data, id=task_id),
        prompt=prompt,
        turns=tuple(turns),
        stop=stop,
        reward=e.reward or 0.0,
        reward_parts=e.parts,
        success=e.success,
        tools=e.tools,
        tokens=tokens,
        agent=e.agent,
        attempt=e.attempt or 0,
        error=e.error,
        meta=meta,
    )
    if not e.whole:
        return made
    try:
        task = replace(e.whole["task"], id=e.task_id)
        made = replace(made, **{**e.whole, "task": task})
        return Trajectory.from_json(orjson.dumps(made))  # other types than ours end here
    except (TypeError, ValueError) as error:
        raise DataError(f"a field is not what a trajectory holds: {error}") from None


def _thoughtful(m: SourceMessage, reasoning: Reasoning, lost: set[str]) -> SourceMessage:
    """The message with its thoughts (`Message.thinking`); or without, which is a loss."""
    if not m.reasoning:
        return m
    text = thought_text(m.reasoning)
    if reasoning == "drop" or text is None:
        lost.add("reasoning")
        return m
    return replace(m, message=replace(m.message, thinking=text.strip()))


def _stop(source: Sequence[SourceMessage], last: Action) -> StopReason:
    if last.tool_calls:
        return StopReason.TERMINATED
    refused = next(m.refused for m in reversed(source) if m.message.role == "assistant")
    cannot = refused or says_it_cannot(_THOUGHT.sub("", last.content))
    return StopReason.DECLINED if cannot else StopReason.FINISHED


def _hash(parts: list[str], messages: Iterable[Message]) -> str:
    """Of its place and its messages: files of one name in two folders give no id twice."""
    body = orjson.dumps([[clean(part) for part in parts], [message.openai() for message in messages]])
    return hashlib.blake2b(body, digest_size=8).hexdigest()


# --- results and their calls -------------------------------------------------------------------------------------


def _numbered(e: SourceEpisode) -> list[SourceMessage]:
    """Each call with an id of its own in the episode, and each result with the id and the name of its call.

    A result belongs to the call whose id it names; else to the only call of its name that is open; else to the only one
    that is open at all. By their order alone only where the form says so, and then that is a guess. Raises `DataError`
    for a result without its call, one too many, one that may be of several calls, or a call that was never answered in
    mid-episode.
    """
    out: list[SourceMessage] = []
    seen: set[str] = set()
    n = 0
    calls: list[ToolCall] = []  # of the last action, as in the source
    own: list[ToolCall] = []  # the same, renamed
    answers: list[int] = []  # places in `out` of the results that came since

    def pair() -> None:
        for place, i in zip(answers, _paired([out[p] for p in answers], calls, e), strict=True):
            m = out[place]
            if m.message.name and m.message.name != own[i].name:
                e.lost.add("the name of a result where its call has another")
            out[place] = replace(m, message=replace(m.message, tool_call_id=own[i].id, name=own[i].name))

    for m in e.messages:
        message = m.message
        if message.role == "assistant":
            pair()
            if len(answers) < len(calls):
                answered = {out[p].message.tool_call_id for p in answers}
                open_ = next(c.id for c in own if c.id not in answered)
                need(False, f"the call {open_!r} got no result before the next action")
            calls, own, answers = list(message.tool_calls), [], []
            for call in calls:
                n += 1
                id = call.id or f"call-{n}"
                while id in seen:  # some logs count anew in each message
                    id = f"{id}-{n}"
                seen.add(id)
                own.append(replace(call, id=id))
            given = [call.id for call in calls if call.id]
            twice = next((id for id in given if given.count(id) > 1), None)
            need(twice is None, f"two calls of one message have the id {twice!r}")
            m = replace(m, message=replace(message, tool_calls=tuple(own)))
        elif message.role == "tool":
            answers.append(len(out))
        out.append(m)
    pair()
    return out


def _paired(results: Sequence[SourceMessage], calls: Sequence[ToolCall], e: SourceEpisode) -> list[int]:
    """For each result, which of the calls it answers."""
    found: dict[int, int] = {}  # result -> call
    open_ = set(range(len(calls)))
    ids = {call.id: i for i, call in enumerate(calls) if call.id}

    def take(result: int, call: int) -> None:
        found[result] = call
        open_.discard(call)

    for k, m in enumerate(results):
        id = m.message.tool_call_id
        if id is not None and ids:
            i = ids.get(id)
            need(i in open_, f"a tool's result (of {id!r}) without its call in the message before")
            take(k, ids[id])
    rest = [k for k in range(len(results)) if k not in found]
    names = [m.message.name for m in results]
    for k in rest:
        name = names[k]
        if name is None:
            continue
        same = sorted(i for i in open_ if calls[i].name == name)
        several = sum(names[other] == name for other in rest if other not in found)
        need(bool(same), f"a tool's result (of {name!r}) without its call in the message before")
        if len(same) == several == 1:
            take(k, same[0])
    rest = [k for k in rest if k not in found]
    need(len(rest) <= len(open_), "a tool's result (of '') without its call in the message before")
    if len(rest) == 1 and len(open_) == 1 and len(calls) == len(results):
        take(rest[0], next(iter(open_)))
    elif rest and e.in_order:
        for k in rest:
            same = sorted(i for i in open_ if names[k] in (None, calls[i].name))
            need(bool(same), f"a tool's result (of {names[k]!r}) without its call in the message before")
            take(k, same[0])
        if BY_ORDER not in e.inferred and len(calls) > 1:
            e.inferred.append(BY_ORDER)
    elif rest:
        of = f" of {names[rest[0]]!r}" if names[rest[0]] else ""
        need(
            False,
            f"{len(rest)} results{of} without tool_call_id for {len(open_)} calls: which is whose cannot be told",
        )
    return [found[k] for k in range(len(results))]


# --- turns -------------------------------------------------------------------------------------------------------


def _cut(source: Sequence[SourceMessage], offered: set[str], failures: Failures, weight: float) -> list[Turn]:
    """Turns, each an action with its results in the order of its calls."""
    turns: list[Turn] = []
    failed: dict[tuple[str, bytes], str] = {}
    starts = [i for i, m in enumerate(source) if m.message.role == "assistant"]
    if not starts:
        return []
    for start, end in zip(starts, [*starts[1:], len(source)], strict=True):
        action = source[start]
        after = source[start + 1 : end]
        results = {m.message.tool_call_id: m for m in after if m.message.role == "tool"}
        last = max((i for i, m in enumerate(after) if m.message.role == "tool"), default=-1)
        need(last < len(results), "a result behind another message: expected results right after the calls")
        made: list[ToolResult] = []
        for i, call in enumerate(action.message.tool_calls):
            if call.id not in results:
                continue
            need(len(made) == i, f"a call got no result, and {call.id!r} after it did")
            key = (call.name, orjson.dumps(call.arguments, option=orjson.OPT_SORT_KEYS) + call.raw.encode())
            made.append(_result(call, results[call.id], offered, failed.get(key), failures))
            if made[-1].ok:
                failed.pop(key, None)
            else:
                failed[key] = call.id
        messages = tuple(m.message for m in after if m.message.role != "tool")
        taken = Action(action.message.content, action.message.tool_calls, action.message.thinking)
        turns.append(Turn(taken, tuple(made), messages, weight=action.weight * weight))
    return turns


def _result(
    call: ToolCall, source: SourceMessage, offered: set[str], retry_of: str | None, failures: Failures
) -> ToolResult:
    """What the source says of it, or the rule that was given; else what the call itself tells, else ok. Never what the
    text seems to mean."""
    if source.result is not None:
        return replace(source.result, call_id=call.id, content=source.message.content)
    why = ""
    ended = source.ended
    if ended is None and failures.rules and (failed := failures.failed(source)) is not None:
        ended = (Outcome.TOOL_ERROR, Cause.TOOL, "") if failed else (Outcome.OK, None, "")
    own = _of_the_call(call, offered)
    if ended is None:
        outcome, cause = own or (Outcome.OK, None)
    else:
        outcome, cause, why = ended
        if own is not None and outcome is Outcome.TOOL_ERROR:  # it failed, and the call tells of what
            outcome, cause = own
    return ToolResult(
        call.id,
        call.name,
        outcome,
        source.message.content,
        cause=cause,
        took_effect=False if cause is Cause.POLICY else None,
        retry_of=retry_of,
        error=why or None,
        inferred=ended is None,
    )


def _of_the_call(call: ToolCall, offered: set[str]) -> tuple[Outcome, Cause] | None:
    """The failure that a call is by itself; None: it is none that can be known."""
    if call.arguments is None and not _is_beyond(call):
        return Outcome.MALFORMED, Cause.POLICY
    if offered and call.name not in offered:
        return Outcome.UNKNOWN_TOOL, Cause.POLICY
    return None


def _is_beyond(call: ToolCall) -> bool:
    return call.arguments is None and call.error.startswith(BEYOND)


def _tokens(source: Sequence[SourceMessage]) -> tuple[Tokens | None, list[tuple[int, int]] | None]:
    """The episode's tokens and each turn's span, where every message up to the last action has its own."""
    ids: list[int] = []
    sampled: list[int] = []
    logprobs: list[float] = []
    spans: list[tuple[int, int]] = []
    for m in source:
        agent = m.message.role == "assistant"
        if not m.ids and agent:
            return None, None
        start = len(ids) + (m.mask.index(1) if 1 in m.mask else len(m.mask))
        given = iter(m.logprobs)
        ids += m.ids
        sampled += m.mask
        logprobs += [next(given) if one else 0.0 for one in m.mask]
        if agent:
            spans.append((start, len(ids)))
    return Tokens(tuple(ids), tuple(sampled), tuple(logprobs)), spans
