"""Records of verifiers: results.jsonl, one rollout a line; traces.jsonl, one episode a line with a graph an agent.

Defines `episodes`.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ..messages import Json
from ..trajectory import StopReason
from ._form import FORMS, ForeignForm, Row
from ._messages import (
    MASKS,
    SourceEpisode,
    as_list,
    as_number,
    as_object,
    chat_message,
    messages_or_text,
    named,
    need,
    not_read,
    shown,
    tool_specs,
    tools_of,
    weighted,
)

__all__ = ["episodes"]

_STOPS = {
    "max_turns": StopReason.TURN_LIMIT, "max_input_tokens": StopReason.TOKEN_LIMIT,
    "max_output_tokens": StopReason.TOKEN_LIMIT, "max_total_tokens": StopReason.TOKEN_LIMIT,
    "compaction_failed": StopReason.TOKEN_LIMIT,
}  # fmt: skip


_READ = MASKS | {"prompt", "completion", "tool_defs", "tools", "functions", "info", "task", "answer", "example_id",
    "error", "stop_condition", "timing"}  # fmt: skip
_COLUMNS = {"example_id", "generation_ms", "scoring_ms", "total_ms", "reward", "id", "seed"}


def episodes(row: Json) -> list[SourceEpisode]:
    """verifiers' results.jsonl (one rollout a line), or traces.jsonl (one episode a line, a trace for each agent)."""
    row = as_object(row, "a record")
    if "traces" in row:
        env = str(as_object(row.get("env") or {}, "env").get("id") or "verifiers")
        return [_trace(as_object(t, "a trace"), env) for t in as_list(row["traces"], "traces")]
    if "nodes" in row:
        return [_trace(row, "verifiers")]
    need("completion" in row, "expected traces, or prompt and completion, got " + named(row))
    before = [replace(h, weight=0.0) for h in messages_or_text(row.get("prompt"), "user", "prompt")]
    info = row.get("info")
    told = as_object(info if isinstance(info, dict) else {}, "info")
    lost: set[str] = set()
    tools = tool_specs(row.get("tool_defs") or told.get("oai_tools"), lost) or tools_of(row, told, lost=lost)
    after = row["completion"]
    after = weighted(after, row, lost) if isinstance(after, list) else messages_or_text(after, "assistant", "")
    episode = SourceEpisode([*before, *after], tools, lost=lost)
    lost |= not_read({k: v for k, v in row.items() if isinstance(v, str | list | dict)}, _READ, "column")
    episode.env = f"verifiers/{row['task']}" if isinstance(row.get("task"), str) else "verifiers"
    episode.data = {"answer": row.get("answer"), "info": info}
    if row.get("example_id") is not None:
        episode.task_id = f"{episode.env}/{row['example_id']}"
    if isinstance(row.get("reward"), int | float) and math.isfinite(row["reward"]):
        episode.reward = float(row["reward"])
        episode.success, episode.inferred = episode.reward >= 1, ["success"]
    numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    episode.parts = {k: float(v) for k, v in numbers.items() if k not in _COLUMNS and math.isfinite(v)}
    if row.get("error"):
        episode.stop, episode.error, episode.success = StopReason.INFRASTRUCTURE, str(row["error"]), None
        episode.inferred = []
    elif row.get("is_truncated") is True:
        episode.stop = StopReason.TOKEN_LIMIT
    return [episode]


_NODE = {"parent", "message", "sampled", "token_ids", "mask", "logprobs", "tools", "functions"}


_TRACE = {"nodes", "task", "ok", "rewards", "stop_condition", "agent", "tools", "functions", "is_timeout",
    "errors", "timing", "is_completed"}  # fmt: skip


def _trace(trace: Row, env: str) -> SourceEpisode:
    """The longest path of a trace's message graph, with its tokens where each message has them."""
    nodes = [as_object(n, "a node") for n in as_list(trace.get("nodes"), "nodes")]
    need(bool(nodes), "a trace without messages")
    paths: list[list[int]] = []
    for i, node in enumerate(nodes):
        parent = node.get("parent")
        fits = parent is None or (isinstance(parent, int) and 0 <= parent < i)
        need(fits, f"node {i} has the parent {shown(parent)}: expected an earlier node or none")
        paths.append([*([] if parent is None else paths[parent]), i])
    parents = {node.get("parent") for node in nodes}
    leaves = [path for i, path in enumerate(paths) if i not in parents]
    path = max(leaves, key=len)
    lost = {"branches of the message graph but the longest"} if len(leaves) > 1 else set()
    lost |= not_read(trace, _TRACE, "trace field")
    messages = []
    for i in path:
        raw = as_object(nodes[i].get("message"), "a node's message")
        lost |= not_read(nodes[i], _NODE, "node field")
        source = chat_message(raw)
        ids, mask, logprobs = (
            [as_number(x) for x in as_list(nodes[i].get(name) or [], name)]
            for name in ("token_ids", "mask", "logprobs")
        )
        if len(ids) == len(mask) and sum(map(bool, mask)) == len(logprobs):
            source = replace(
                source, ids=tuple(map(int, ids)), mask=tuple(int(m != 0) for m in mask), logprobs=tuple(logprobs)
            )
        messages.append(replace(source, weight=source.weight if nodes[i].get("sampled", True) else 0.0))
    task = as_object(trace.get("task") or {}, "task")
    data = as_object(task.get("data") or {}, "task data")
    episode = SourceEpisode(
        messages, tools_of(trace, nodes[path[0]], lost=lost), str(trace.get("id") or ""), record=trace
    )
    episode.lost = lost
    episode.env = f"verifiers/{env}"
    config = as_object(as_object(trace.get("agent") or {}, "agent").get("config") or {}, "agent config")
    episode.agent = str(config.get("model") or "")
    episode.data, episode.task_id = data, str(task.get("key") or "")
    episode.instruction = data["prompt"] if isinstance(data.get("prompt"), str) else ""
    rewards = {k: as_object(r, "a reward") for k, r in as_object(trace.get("rewards") or {}, "rewards").items() if r}
    episode.parts = {k: as_number(r.get("score")) * as_number(r.get("weight", 1)) for k, r in rewards.items()}
    stopped = str(trace.get("stop_condition") or "")
    if trace.get("is_timeout") is True:
        episode.stop = StopReason.DEADLINE
    elif trace.get("errors") and trace.get("ok") is not True:
        episode.stop = StopReason.INFRASTRUCTURE
        episode.error = str(as_object(as_list(trace["errors"], "errors")[-1], "an error").get("message", ""))
    elif stopped in _STOPS:
        episode.stop = _STOPS[stopped]
    if rewards and episode.stop is not StopReason.INFRASTRUCTURE:
        episode.reward = math.fsum(episode.parts.values())
        episode.success, episode.inferred = episode.reward >= 1, ["success"]
    return episode


FORM = FORMS.register("verifiers")(ForeignForm(episodes))
