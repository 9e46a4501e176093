"""Any environment as an MCP server: its tools, and `begin` and `finish` around an episode. Defines `serve`, `Session`.

    sparring mcp serve orders                   over stdin and stdout, for a client that starts its servers itself
    sparring mcp serve orders --port 8000       over streamable HTTP, http://127.0.0.1:8000/mcp

`begin` starts an episode and says the task; then the environment's own tools work as in `ToolEnv.act`, one call a turn;
`finish` hands over with the agent's last message and tells the verdict. One server holds one episode at a time: a
second `begin` is refused (outcome conflict) until `finish`, so that two clients cannot spoil each other's episode.

What a model may see is in the result: the text, `isError`, and in the structured content the typed outcome and why
the episode stopped. What it must not see (cause, injected fault, whether an effect took place) is for the program
that drives it: `_meta`, key `sparring/result`. `sparring.tools.mcp` reads it, so typed outcomes survive the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ...tools.mcp import META
from ...trajectories.errors import ConfigError, MissingExtra
from ...trajectories.messages import Action, Cause, Json, Outcome, ToolCall, ToolResult, ToolSpec
from ..env import Step, ToolEnv, name_of
from ..registry import make
from ..task import SPLITS

if TYPE_CHECKING:
    from mcp import types
    from mcp.server.lowlevel import Server

__all__ = ["Session", "serve"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Reply:
    """What one call over MCP came to."""

    text: str
    outcome: Outcome
    shown: dict[str, Json]
    """Structured content; a model may see it."""
    record: dict[str, Json]
    """For the program alone."""


class Session:
    """One environment and the episode in it. Not safe for threads: calls come one after the other, from one thread."""

    def __init__(self, env: ToolEnv, *, split: str = "test", faults: str = "") -> None:
        """
        Args:
            env: The environment.
            split: Of the tasks that `begin` draws.
            faults: A fault plan in one line, for every episode.

        Raises `ConfigError` where the environment has tools named `begin` or `finish` under both their names.
        """
        self.env, self.split, self.faults = env, split, faults
        own = set(env.toolbox.tools)
        self.begin_name = "begin" if "begin" not in own else "sparring_begin"
        self.finish_name = "finish" if "finish" not in own else "sparring_finish"
        if {self.begin_name, self.finish_name} & own:
            raise ConfigError(f"{name_of(env)} has tools named begin and sparring_begin: rename one")
        self._running = False

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools on offer: `begin`, `finish`, and the environment's own."""
        begin = ToolSpec(
            self.begin_name,
            "Start an episode. Returns the instructions and the task.",
            {
                "type": "object",
                "properties": {"seed": {"type": "integer", "minimum": 0, "description": "Chooses the task."}},
                "additionalProperties": False,
            },
        )
        finish = ToolSpec(
            self.finish_name,
            "End the episode, when the task is done or cannot be done. Returns whether it succeeded.",
            {
                "type": "object",
                "properties": {"message": {"type": "string", "description": "Your final message to the user."}},
                "additionalProperties": False,
            },
        )
        return (begin, finish, *self.env.toolbox.specs)

    def call(self, name: str, arguments: dict[str, Json]) -> Reply:
        """Executes one call. A bad call is a reply with its outcome; only a bug raises."""
        if name in (self.begin_name, self.finish_name):
            wrong = _wrong(arguments, next(s for s in self.specs if s.name == name).parameters)
            if wrong:
                return self._refuse(Outcome.INVALID_ARGUMENTS, wrong)
            return self._begin(arguments) if name == self.begin_name else self._finish(arguments)
        if not self._running:
            return self._refuse(Outcome.CONFLICT, f"no episode is under way: call {self.begin_name} first")
        step = self.env.act(Action(tool_calls=(ToolCall(name, arguments),)))
        result = step.turn.results[0]
        return self._reply(result.content, result.outcome, step, _record(result))

    def _begin(self, arguments: dict[str, Json]) -> Reply:
        if self._running:
            return self._refuse(Outcome.CONFLICT, f"an episode is under way: call {self.finish_name} first")
        options: dict[str, Json] = {"split": self.split, "faults": self.faults}
        observation, _ = self.env.reset(seed=arguments.get("seed"), options=options)
        self._running = True
        text = "\n\n".join(m.content for m in observation.messages if m.content)
        shown = {"outcome": "ok", "task": self.env.episode.task.id, "max_turns": self.env.max_turns}
        return Reply(text, Outcome.OK, shown, {"outcome": "ok", "value": text})

    def _finish(self, arguments: dict[str, Json]) -> Reply:
        if not self._running:
            return self._refuse(Outcome.CONFLICT, f"no episode is under way: call {self.begin_name} first")
        step = self.env.act(Action(arguments.get("message", "")))
        text = f"The episode is over ({step.stop}). Success: {'yes' if self.env.judge()[0] else 'no'}."
        return self._reply(text, Outcome.OK, step, {"outcome": "ok", "value": text})

    def _reply(self, text: str, outcome: Outcome, step: Step, record: dict[str, Json]) -> Reply:
        shown: dict[str, Json] = {"outcome": outcome.value, "stop": step.stop.value if step.stop else None}
        if step.stop is not None:
            self._running = False
            success, parts = self.env.judge()
            verdict = {"success": success, "reward": step.turn.reward, "parts": parts}
            shown |= verdict
            record |= verdict | {"faults_hit": list(self.env.episode.faults_hit)}
        return Reply(text, outcome, shown, record)

    def _refuse(self, outcome: Outcome, message: str) -> Reply:
        record = {"outcome": outcome.value, "cause": Cause.POLICY.value, "took_effect": False}
        return Reply(message, outcome, {"outcome": outcome.value, "stop": None}, record)


def _record(result: ToolResult) -> dict[str, Json]:
    return {
        "outcome": result.outcome.value, "cause": result.cause.value if result.cause else None, "value": result.value,
        "took_effect": result.took_effect, "fault": result.fault, "retry_of": result.retry_of,
        "retry_after": result.retry_after,
        "call_id": result.call_id,
    }  # fmt: skip


def _wrong(arguments: dict[str, Json], schema: dict[str, Json]) -> str:
    """What is wrong with the arguments of `begin` or `finish`, or ""."""
    import jsonschema

    error = next(iter(jsonschema.Draft202012Validator(schema).iter_errors(arguments)), None)
    return error.message if error else ""


def _server(name: str, options: dict[str, Json], split: str, faults: str) -> tuple[Server[Json], Callable[[], None]]:
    """The protocol's server, and what ends its worker.

    The environment lives in one thread of its own: its tools are plain functions that may take long, and a database
    connection belongs to the thread that opened it.
    """
    from mcp import types
    from mcp.server.lowlevel import Server

    worker = ThreadPoolExecutor(1, thread_name_prefix="sparring-env")

    async def work(task: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(worker, task)

    def start() -> Session:
        return Session(make(name, **options), split=split, faults=faults)

    session = worker.submit(start).result()  # a wrong name is an error now, not at the first call

    async def on_list_tools(_context: Json, _params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        def listed() -> list[types.Tool]:
            return [_offer(session, spec) for spec in session.specs]

        return types.ListToolsResult(tools=await work(listed))

    async def on_call_tool(_context: Json, params: types.CallToolRequestParams) -> types.CallToolResult:
        reply = await work(lambda: session.call(params.name, params.arguments or {}))
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=reply.text)],
            structured_content=reply.shown,
            is_error=reply.outcome is not Outcome.OK,
            _meta={META: reply.record},
        )

    server = Server(
        "sparring",
        on_list_tools=on_list_tools,
        on_call_tool=on_call_tool,
        instructions=f"Call {session.begin_name} for a task, work on it with the other tools, then call "
        f"{session.finish_name}.",
    )
    return server, lambda: worker.shutdown(wait=False, cancel_futures=True)


def _offer(session: Session, spec: ToolSpec) -> types.Tool:
    from mcp import types

    toolbox = session.env.toolbox
    tool = toolbox.tools.get(toolbox.true_name(spec.name))
    effect = tool is None or tool.effect
    hints = types.ToolAnnotations(
        read_only_hint=not effect, idempotent_hint=bool(tool and tool.idempotent) or not effect, open_world_hint=False
    )
    return types.Tool(name=spec.name, description=spec.description, input_schema=spec.parameters, annotations=hints)


def serve(
    name: str,
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    split: str = "test",
    faults: str = "",
    options: dict[str, Json] | None = None,
) -> None:
    """Serves an environment until the client ends (stdio), or until it is interrupted (HTTP).

    Args:
        name: As for `make`.
        port: Serve streamable HTTP here; None: over stdin and stdout.
        host: Where to listen. There is no authentication: other than the loopback address only in a closed network.
        split: Of the tasks.
        faults: A fault plan in one line, for every episode.
        options: Of the environment.

    Raises `UnknownName` for an environment or split that is not there, `ConfigError` for a wrong fault plan.
    """
    try:
        import anyio
        from mcp.server.stdio import stdio_server
    except ImportError as error:
        raise MissingExtra("mcp", "mcp") from error
    from ...tools.plans import FaultPlan

    if split not in SPLITS:
        raise ConfigError(f"split has to be one of {', '.join(SPLITS)}, got {split!r}")
    if faults:
        FaultPlan.parse(faults)  # a wrong one is an error now
    server, end = _server(name, dict(options or {}), split, faults)

    async def stdio() -> None:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    try:
        if port is None:
            anyio.run(stdio)
        else:
            import uvicorn

            app = server.streamable_http_app(host=host)
            uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)
    finally:
        end()
