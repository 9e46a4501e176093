"""The labelling page's server: this machine only, this command's token only, every answer on disk before it counts.

    GET  /TOKEN/        the page
    GET  /TOKEN/state   progress, and the two episodes that are shown now
    GET  /TOKEN/agreement
    POST /TOKEN/label   {"shown": ID, "label": "left" | "right" | "tie" | "bad", "note": TEXT}   -> the next state
    POST /TOKEN/skip    {"shown": ID}
    POST /TOKEN/undo    {}

Episodes are untrusted: they travel as JSON and enter the page as text, under a Content-Security-Policy that admits only
the page's own script and style, by hash.

Defines `LabelServer`, `LabelSession`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import threading
from collections import deque
from collections.abc import Sequence
from importlib import resources
from typing import Any, Literal

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ...errors import ConfigError, DataError, SparringError
from ...labels import Choice, Key, Label, LabelFile, agreement
from ...messages import Message, ToolCall, ToolResult
from ...trajectory import Trajectory, Turn
from .. import report
from ..report.safe import visible
from ..report.wording import effect
from ..server import LocalServer, Refused, Reply
from .queue import LabelPair, left_side

__all__ = ["LabelServer", "LabelSession"]

Answer = Literal["left", "right", "tie", "bad"]

_MAX_NOTE = 10_000
_MAX_CHARS = 20_000

_log = logging.getLogger(__name__)


class LabelSession:
    """One labeller's way through the comparisons. Safe for several threads."""

    def __init__(
        self,
        queue: Sequence[LabelPair],
        labels: LabelFile,
        *,
        labeller: str,
        seed: int = 0,
        names: bool = False,
        verdicts: bool = False,
    ) -> None:
        """`names`, `verdicts`: show who played, and success and reward. Both sway people: off by default."""
        self.labels, self.labeller, self.seed = labels, labeller, seed
        self.names, self.verdicts = names, verdicts
        self._queue = {_id(c): c for c in queue}
        self._skipped: deque[str] = deque()
        self._front: str | None = None
        """Always shown next: what was just taken back."""
        self._last: str | None = None
        """What was skipped, where that was the last thing done: undo takes it back."""
        self._lock = threading.Lock()

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        with self._lock:
            return self._state()

    def label(self, shown: str, answer: Answer, note: str) -> dict[str, Any]:
        """Saves an answer; returns once the disk has it. Raises `ConfigError` for one about what is not shown."""
        with self._lock:
            comparison = self._queue.get(shown)
            if comparison is None:
                raise ConfigError("that comparison is not among these: reload the page")
            left = left_side(comparison, self.labeller, self.seed)
            right = "b" if left == "a" else "a"
            sides: dict[str, Choice] = {"left": left, "right": right}  # type: ignore[dict-item]  # "a" or "b"
            choice = sides.get(answer, answer)
            (a, attempt_a), (b, attempt_b) = comparison.keys
            new = Label(a, b, choice, self.labeller, note, "", attempt_a, attempt_b, left)  # type: ignore[arg-type]  # checked by `add`
            self.labels.add(new)
            self._forget(shown)
            return self._state()

    def skip(self, shown: str) -> dict[str, Any]:
        """Puts a comparison behind all others. Nothing is saved."""
        with self._lock:
            if shown in self._queue:
                self._forget(shown)
                self._skipped.append(shown)
                self._last = shown
            return self._state()

    def undo(self) -> dict[str, Any]:
        """Takes back the last skip, or else the labeller's last label, and shows it again."""
        with self._lock:
            if self._last is not None:
                self._skipped.remove(self._last)
                self._front, self._last = self._last, None
                return self._state()
            taken = self.labels.undo(self.labeller)
            if taken is None:
                return {**self._state(), "said": "There is nothing to take back."}
            found = next((id for id, c in self._queue.items() if _pair(c) == taken.pair), None)
            self._front = found or self._front
            said = "Taken back." if found else "Taken back; it is about two episodes that are not among these."
            return {**self._state(), "said": said, "note": visible(taken.note) if found else ""}

    def agreement(self) -> dict[str, Any]:
        """How far all labellers of the file agree, as of now."""
        found = agreement(self.labels.labels())
        return {
            "labellers": [[visible(name), count] for name, count in found.labellers.items()],
            "pairs": found.pairs,
            "same": found.same,
            "alpha": found.alpha,
            "interval": [found.low, found.high],
            "kappa": [[visible(x), visible(y), value, n] for (x, y), (value, n) in found.kappa.items()],
        }

    def _forget(self, shown: str) -> None:
        self._last = None
        if self._front == shown:
            self._front = None
        if shown in self._skipped:
            self._skipped.remove(shown)

    def _state(self) -> dict[str, Any]:
        held = self.labels.labels()
        done = {x.pair for x in held if x.labeller == self.labeller}
        left = [id for id, c in self._queue.items() if _pair(c) not in done]
        waiting = [id for id in left if id not in self._skipped]
        shown = self._front if self._front in left else None
        shown = shown or next(iter(waiting), None) or next((id for id in self._skipped if id in left), None)
        return {
            "done": len(self._queue) - len(left),
            "total": len(self._queue),
            "skipped": len(left) - len(waiting),
            "labeller": visible(self.labeller),
            "undo": self._last is not None or any(x.labeller == self.labeller for x in held),
            "shown": self._shown(shown) if shown is not None else None,
        }

    def _shown(self, id: str) -> dict[str, Any]:
        c = self._queue[id]
        left, right = (c.a, c.b) if left_side(c, self.labeller, self.seed) == "a" else (c.b, c.a)
        same = 0
        if left.prompt == right.prompt:
            turns = [[_turn(turn) for turn in t.turns] for t in (left, right)]
            same = next((i for i, (x, y) in enumerate(zip(*turns, strict=False)) if x != y), min(map(len, turns)))
        return {
            "id": id,
            "env": visible(c.a.env),
            "task": _text(c.a.task.instruction),
            "faults": _plan(c.a.faults),
            "prompt": [_message(m) for m in left.prompt] if left.prompt == right.prompt else [],
            "same": [_turn(turn) for turn in left.turns[:same]],
            "sides": [self._side(t, same, left.prompt == right.prompt) for t in (left, right)],
        }

    def _side(self, t: Trajectory, same: int, one_prompt: bool) -> dict[str, Any]:
        out: dict[str, Any] = {
            "prompt": [] if one_prompt else [_message(m) for m in t.prompt],
            "turns": [_turn(turn) for turn in t.turns[same:]],
            "count": len(t.turns),
            "stop": t.stop.value.replace("_", " "),
        }
        if self.names:
            out["agent"] = visible(t.agent) or "(no name)"
        if self.verdicts:
            word = "not judged" if not t.judged else "success" if t.success else "failure"
            out["verdict"] = f"{word}, reward {t.reward:.4g}"
        return out


# ---- what the page is told of an episode -----------------------------------------------------------------------------


def _turn(turn: Turn) -> dict[str, Any]:
    results = turn.results
    calls = turn.action.tool_calls
    return {
        "text": _text(turn.action.shown),
        "calls": [_call(call, results[i] if i < len(results) else None) for i, call in enumerate(calls)],
        "after": [_message(m) for m in turn.messages],
    }


def _call(call: ToolCall, result: ToolResult | None) -> dict[str, Any]:
    out: dict[str, Any] = {"name": visible(call.name) or "(no name)"}
    if call.arguments is None:
        out |= {"arguments": _text(call.raw), "unparsed": _text(call.error) or "no reason given"}
    else:
        out["arguments"] = _text(_json(call))
    if result is not None:
        out["result"] = {
            "ok": result.ok,
            "outcome": result.outcome.value.replace("_", " "),
            "fault": visible(result.fault or ""),
            "effect": effect(result),
            "text": _text(result.content),
        }
    return out


def _json(call: ToolCall) -> str:
    try:
        line = json.dumps(call.arguments, ensure_ascii=False, default=str)
        return line if len(line) <= 60 else json.dumps(call.arguments, ensure_ascii=False, default=str, indent=2)
    except (RecursionError, ValueError):
        return call.raw or "(nested too deeply to be shown)"


def _message(m: Message) -> dict[str, str]:
    return {"role": m.role, "text": _text(m.content)}


def _text(text: str) -> str:
    cut = len(text) - _MAX_CHARS
    return visible(text) if cut <= 0 else visible(text[:_MAX_CHARS]) + f"\n[{cut:,} more characters, not shown]"


def _plan(faults: str) -> str:
    """A fault plan in a few words; the default one lists every kind there is."""
    count, _, kinds = faults.rpartition("@")[0].partition(":")
    several = kinds.count(",") + 1
    return visible(f"{count}, of {several} kinds" if several > 4 else faults.rpartition("@")[0] or faults)


def _id(c: LabelPair) -> str:
    return hashlib.blake2b(repr(_pair(c)).encode(errors="backslashreplace"), digest_size=8).hexdigest()


def _pair(c: LabelPair) -> tuple[Key, Key]:
    a, b = sorted(c.keys)
    return a, b


# ---- the server ------------------------------------------------------------------------------------------------------


class LabelServer(LocalServer):
    """Serves a session to its labeller."""

    methods = ("GET", "POST")

    def __init__(self, session: LabelSession, *, title: str, port: int = 0) -> None:
        """`port` 0: any that is free. Raises `ConfigError` for one that cannot be had."""
        self.session = session
        style = _source("style.css", report.__name__) + _source("label.css")
        script = _source("label.js")
        policy = (
            f"default-src 'none'; style-src 'sha256-{_digest(style)}'; script-src 'sha256-{_digest(script)}'; "
            f"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_source("label.html.j2"))
        page = template.render(title=visible(title), style=Markup(style), script=Markup(script))
        super().__init__(page.encode(), policy, port)

    def get(self, what: str, query: dict[str, str]) -> Reply | None:
        if what == "state":
            return Reply.of(self.session.state())
        return Reply.of(self.session.agreement()) if what == "agreement" else None

    def post(self, what: str, body: dict[str, Any]) -> Reply | None:
        shown, note, label = (body.get(name, "") for name in ("shown", "note", "label"))
        if not isinstance(shown, str) or not isinstance(note, str) or len(note) > _MAX_NOTE:
            raise Refused(400, f"a note is text of at most {_MAX_NOTE:,} characters")
        try:
            if what == "label" and label in ("left", "right", "tie", "bad"):
                return Reply.of(self.session.label(shown, label, note))
            if what == "skip":
                return Reply.of(self.session.skip(shown))
            return Reply.of(self.session.undo()) if what == "undo" else None
        except (SparringError, OSError) as error:  # a full disk, say: nothing was saved, and the page says so
            _log.warning("not saved: %s", error)
            code = 500 if isinstance(error, OSError | DataError) else 409
            return Reply.of({"error": visible(f"not saved: {error}")}, code)


def _source(name: str, package: str = __package__) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
