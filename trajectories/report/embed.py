"""The episodes that the page carries, as JSON for its viewer. Defines `Embedded`, `sample`, `script_json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..messages import Json, ToolCall, ToolResult
from ..trajectory import Trajectory
from .safe import visible
from .words import effect

__all__ = ["Embedded", "sample", "script_json"]


class Embedded:
    """The episodes that the page carries. Prompts are stored once: a system prompt is the same in all of them."""

    def __init__(self, cap: int, max_chars: int) -> None:
        self.cap, self.max_chars = cap, max_chars
        self.episodes: list[dict[str, Any]] = []
        self.prompts: dict[tuple[str, str], int] = {}

    def add(self, arm: str, condition: str, trajectories: Sequence[Trajectory]) -> None:
        self.episodes += [self._episode(arm, condition, t) for t in sample(trajectories, self.cap)]

    def payload(self) -> dict[str, Any]:
        prompts = [{"role": role, "text": text} for role, text in self.prompts]
        return {"prompts": prompts, "episodes": self.episodes}

    def _text(self, text: str) -> str:
        cut = len(text) - self.max_chars
        if cut <= 0:
            return visible(text)
        return visible(text[: self.max_chars]) + f"\n[{cut:,} more characters, not shown]"

    def _episode(self, arm: str, condition: str, t: Trajectory) -> dict[str, Any]:
        prompt = [(m.role, self._text(m.content)) for m in t.prompt]
        return {
            "arm": visible(arm),
            "condition": visible(condition),
            "id": visible(t.id),
            "env": visible(t.env),
            "task": visible(t.task.id),
            "kind": visible(t.task.kind),
            "about": self._text(t.task.instruction),
            "verdict": "unjudged" if not t.judged else "success" if t.success else "failure",
            "stop": t.stop.value,
            "reward": f"{t.reward:.4g}",
            "parts": [[visible(name), f"{value:.4g}"] for name, value in t.reward_parts.items()],
            "plan": visible(t.faults),
            "faults": [visible(kind) for kind in t.faults_hit],
            "optimum": t.optimum,
            "error": self._text(t.error or ""),
            "prompt": [self.prompts.setdefault(entry, len(self.prompts)) for entry in prompt],
            "turns": [
                {
                    "text": self._text(turn.action.content),
                    "reward": f"{turn.reward:.4g}" if turn.reward else "",
                    "calls": [
                        self._call(call, turn.results[i] if i < len(turn.results) else None)
                        for i, call in enumerate(turn.action.tool_calls)
                    ],
                    "after": [{"role": m.role, "text": self._text(m.content)} for m in turn.messages],
                }
                for turn in t.turns
            ],
        }

    def _call(self, call: ToolCall, result: ToolResult | None) -> dict[str, Any]:
        parsed = call.arguments is not None
        text = call.raw if call.arguments is None else _arguments(call.arguments)
        out: dict[str, Any] = {"name": visible(call.name), "args": self._text(text), "parsed": parsed}
        out["error"] = self._text(call.error)
        if result is not None:
            out["result"] = {
                "ok": result.ok,
                "outcome": result.outcome.value,
                "cause": result.cause.value if result.cause else "",
                "fault": visible(result.fault or ""),
                "effect": effect(result),
                "id": visible(result.call_id),
                "retry": visible(result.retry_of or ""),
                "time": f"{result.latency_s:.3f} s" if result.latency_s >= 0.001 else "",
                "text": self._text(result.content),
            }
        return out


def _arguments(arguments: dict[str, Json]) -> str:
    """JSON on one line where it is short, else indented."""
    line = json.dumps(arguments, ensure_ascii=False, default=str)
    return line if len(line) <= 88 else json.dumps(arguments, ensure_ascii=False, default=str, indent=2)


def sample(trajectories: Sequence[Trajectory], cap: int) -> list[Trajectory]:
    """At most `cap` episodes, in their order: failures, successes and unjudged ones dealt in turn, each kind spread
    evenly over the whole list rather than taken from its head."""
    kinds: list[list[int]] = [[], [], []]
    for i, t in enumerate(trajectories):
        kinds[2 if not t.judged else int(t.success is True)].append(i)
    quota = [0, 0, 0]
    for _ in range(min(cap, len(trajectories))):
        open_kinds = [k for k in range(3) if quota[k] < len(kinds[k])]
        quota[min(open_kinds, key=quota.__getitem__)] += 1
    taken = [kinds[k][j * len(kinds[k]) // quota[k]] for k in range(3) for j in range(quota[k])]
    return [trajectories[i] for i in sorted(taken)]


def script_json(value: object) -> str:
    """JSON that cannot end the script element it stands in, whatever strings it holds."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
