"""The episodes that a page carries, as lines of text for its viewer.

A page of 5,000 episodes parses what its list shows and nothing more, so each episode is one line of two or three JSON
arrays with a tab between them: what the list shows, the conversation, the tokens. Fields have positions in place of
names, which also makes the conversation's text what a search looks at. `viewer.js` is the only reader. What is the same
in many episodes is there once, on a line of its own before the first that needs it:

    ="[role, text]"             a message of prompts
    +[[id, text], ...]          what tokens say
    [...]\\t[...]\\t[...]         an episode; the third array only where there are tokens

Defines `Lines`, `sample`, `packed`.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterator, Sequence

import orjson

from ...messages import Json, ToolCall, ToolResult
from ...trajectory import Tokens, Trajectory, Turn
from .safe import visible
from .wording import arguments, effect

__all__ = ["Decode", "Lines", "packed", "sample"]

Decode = Callable[[int], str]
"""A token's text."""

_CHUNK_CHARS = 1 << 19
"""What a browser unpacks and reads at a stretch: a few milliseconds."""


class Lines:
    """Episodes as lines; more can be added at any time."""

    def __init__(self, *, max_chars: int = 20_000, decode: Decode | None = None) -> None:
        """`max_chars`: longer texts are cut, visibly. `decode`: without it, tokens are shown as their ids."""
        self.max_chars = max_chars
        self.decode = decode
        self.lines: list[str] = []
        self.episodes = 0
        self._places: dict[tuple[str, str, str, int], int] = {}
        self._prompts: dict[tuple[str, str], int] = {}
        self._words: set[int] = set()

    def add(self, arm: str, condition: str, trajectories: Sequence[Trajectory]) -> None:
        """Adds episodes, in their order; in true names where they were played in disguise. Tokens are as they were."""
        for t in trajectories:
            new: list[str] = []
            head, body = self._head(arm, condition, t), self._body(t.undisguised, new)
            parts = [_dump(head), _dump(body)]
            if t.tokens is not None:
                parts.append(_dump(self._tokens(t.tokens, new)))
            self.lines += [*new, "\t".join(parts)]
            self._places[arm, condition, t.id, t.attempt] = self.episodes
            self.episodes += 1

    def place(self, arm: str, condition: str, t: Trajectory) -> int | None:
        """How many episodes are before this one; None: it was not added."""
        return self._places.get((arm, condition, t.id, t.attempt))

    def forget(self, n: int) -> None:
        """Lets go of the first `n` episodes; what they shared with others stays."""
        kept: list[str] = []
        left = n
        for line in self.lines:
            if line[0] == "[" and left:
                left -= 1
            else:
                kept.append(line)
        self.lines = kept
        self.episodes -= n - left
        self._places = {key: i - (n - left) for key, i in self._places.items() if i >= n - left}

    def _text(self, text: str) -> str:
        cut = len(text) - self.max_chars
        if cut <= 0:
            return visible(text)
        return visible(text[: self.max_chars]) + f"\n[{cut:,} more characters, not shown]"

    def _head(self, arm: str, condition: str, t: Trajectory) -> list[Json]:
        about = " ".join(t.task.instruction.split())
        fork = t.forked_from
        return [
            visible(arm),
            visible(condition),
            2 if not t.judged else int(t.success is True),
            visible(about[:160]),
            len(t.turns),
            t.expert_turns,
            [visible(kind) for kind in dict.fromkeys(t.faults_hit)],
            _number(t.reward),
            visible(t.id),
            t.attempt,
            [visible(fork.parent), fork.turn] if fork is not None else 0,
            sum(t.tokens.sampled) if t.tokens is not None else 0,
        ]

    def _body(self, t: Trajectory, new: list[str]) -> list[Json]:
        prompt = []
        for message in t.prompt:
            entry = (message.role, self._text(message.content))
            if entry not in self._prompts:
                self._prompts[entry] = len(self._prompts)
                new.append("=" + _dump(list(entry)))
            prompt.append(self._prompts[entry])
        return [
            visible(t.env),
            visible(t.task.id),
            self._text(t.task.instruction),
            t.stop.value,
            [[visible(name), _number(value)] for name, value in t.reward_parts.items()],
            visible(t.faults),
            self._text(t.error or ""),
            prompt,
            [self._turn(turn, t.tokens) for turn in t.turns],
        ]

    def _turn(self, turn: Turn, tokens: Tokens | None) -> list[Json]:
        least: list[Json] = []
        if tokens is not None and turn.span is not None and 0 <= turn.span[0] < turn.span[1] <= len(tokens):
            logprobs = tokens.logprobs[slice(*turn.span)]
            least = [len(logprobs), _cost(min(logprobs))]
        results = turn.results
        return [
            self._text(turn.action.shown),
            _number(turn.reward) if turn.reward else 0,
            turn.weight,
            [
                self._call(call, results[i] if i < len(results) else None)
                for i, call in enumerate(turn.action.tool_calls)
            ],
            [[m.role, self._text(m.content)] for m in turn.messages],
            least,
        ]

    def _call(self, call: ToolCall, result: ToolResult | None) -> list[Json]:
        text = arguments(call, indent_beyond=88)
        why = (self._text(call.error) or "no reason given") if call.arguments is None else ""
        return [visible(call.name), self._text(text), why, self._result(result) if result is not None else 0]

    def _result(self, r: ToolResult) -> list[Json]:
        return [
            int(r.ok),
            r.outcome.value + (" (inferred)" if r.inferred else ""),
            r.cause.value if r.cause else "",
            visible(r.fault or ""),
            effect(r),
            visible(r.call_id),
            visible(r.retry_of or ""),
            f"{r.latency_s:.3f} s" if r.latency_s >= 0.001 else "",
            self._text(r.content),
        ]

    def _tokens(self, tokens: Tokens, new: list[str]) -> list[Json]:
        """Ids; lengths of the runs that were not sampled and sampled, in turn; for each sampled token, its cost."""
        runs, last = [0], 0
        for sampled in tokens.sampled:
            if sampled != last:
                runs.append(0)
                last = sampled
            runs[-1] += 1
        costs = [_cost(p) for p, sampled in zip(tokens.logprobs, tokens.sampled, strict=True) if sampled]
        if self.decode is not None:
            unknown = sorted(set(tokens.ids) - self._words)
            if unknown:
                self._words.update(unknown)
                new.append("+" + _dump([[i, visible(self.decode(i))] for i in unknown]))
        return [list(tokens.ids), runs, costs]


def _dump(value: Json) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    return f"{value:.4g}"


def _cost(logprob: float) -> int:
    """Thousandths of a nat by which a token falls short of certain: 693 is p = 0.5."""
    return round(min(1000 * -logprob, 1e6)) if logprob < 0 else 0


def sample(trajectories: Sequence[Trajectory], cap: int, keep: frozenset[int] = frozenset()) -> list[Trajectory]:
    """At most `cap` episodes, in their order: failures, successes and unjudged ones dealt in turn, each kind spread
    evenly over the whole list rather than taken from its head. Those at the indices in `keep` are there in any case."""
    kinds: list[list[int]] = [[], [], []]
    for i, t in enumerate(trajectories):
        kinds[2 if not t.judged else int(t.success is True)].append(i)
    quota = [0, 0, 0]
    for _ in range(min(cap, len(trajectories))):
        open_kinds = [k for k in range(3) if quota[k] < len(kinds[k])]
        quota[min(open_kinds, key=quota.__getitem__)] += 1
    taken = {kinds[k][j * len(kinds[k]) // quota[k]] for k in range(3) for j in range(quota[k])}
    return [trajectories[i] for i in sorted(taken | keep)]


def packed(lines: Sequence[str]) -> Iterator[str]:
    """The lines in chunks, each compressed (zlib) and in base64: what is in a page can neither end its element nor
    be taken for markup, and takes a sixth of the space."""
    chunk: list[str] = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += len(line)
        if size >= _CHUNK_CHARS:
            yield _packed(chunk)
            chunk, size = [], 0
    if chunk:
        yield _packed(chunk)


def _packed(lines: Sequence[str]) -> str:
    return base64.b64encode(zlib.compress("\n".join(lines).encode(), 9)).decode()
