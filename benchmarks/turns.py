"""Overhead of a turn, next to other frameworks on the same work: an agent adds twice two numbers by a tool, four calls
and a final answer, and is given the reward 1. No model: the actions are a fixed script.

Ours has schema check, fault plan and full record on. Each framework runs in a process of its own, in turns, several
rounds; what is printed is the median of CPU milliseconds a turn (user and system, of the process and its children) on
one thread, and how many times ours that is.

    python benchmarks/turns.py                          ours and bare Gymnasium
    python benchmarks/turns.py --peers                  makes a virtual environment for each peer, and removes it
    python benchmarks/turns.py --peers --venvs FOLDER   keeps them there, and takes those that are there

A peer that does not install or run is named with the reason, and left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

TURNS, ROUNDS, REPEATS = 5, 3, 5
ARGUMENTS = [{"a": turn, "b": 10} for turn in range(TURNS - 1)]
TOTAL = sum(a["a"] + a["b"] for a in ARGUMENTS)

INSTALLED = {
    "small": ["gymnasium==1.4.0", "gem-llm==0.1.0", "skyrl-gym==0.4.0"],
    "verifiers": ["verifiers==0.1.14"],
    "openenv": ["openenv==0.10.0"],
    "inspect": ["inspect-ai==0.3.285"],
}
"""What each virtual environment holds."""

Run = Callable[[], None]
"""Plays some episodes; raises where one does not earn 1."""


# ---- ours ------------------------------------------------------------------------------------------------------------


def ours(episodes: int, faults: str) -> Run:
    from sparring import Action, FaultPlan, Task, ToolEnv, tool

    class Counter(ToolEnv):
        """Adds, and says the sum of all."""

        def tasks(self, split: str, rng: Any) -> Any:
            yield Task("Add the numbers with the tool.")

        def setup(self, task: Task, rng: Any) -> None:
            self.state = {"total": 0}

        @tool(effect=True)
        def add(self, a: int, b: int) -> int:
            """Add two integers."""
            self.state["total"] += a + b
            return a + b

        def success(self, task: Task) -> bool:
            return bool(self.episode.said == f"{self.state['total']}")

    env, task, plan = Counter(), Task("Add the numbers with the tool."), FaultPlan.parse(faults)
    actions = [*(Action.call("add", **arguments) for arguments in ARGUMENTS), Action(str(TOTAL))]

    def run() -> None:
        for _ in range(episodes):
            env.start(task, plan)
            for action in actions:
                step = env.act(action)
            assert step.turn.reward == 1.0

    return run


# ---- peers: imported where they are installed ------------------------------------------------------------------------

CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def as_text() -> list[str]:
    """The actions for frameworks that take text."""
    calls = [f"<tool_call>{json.dumps({'name': 'add', 'arguments': a})}</tool_call>" for a in ARGUMENTS]
    return [*calls, f"answer: {TOTAL}"]


def bare(episodes: int) -> Run:
    import gymnasium

    class Bare(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Discrete(2)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            super().reset(seed=seed)
            self.turns = 0
            return 0, {}

        def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
            self.turns += 1
            return 0, float(self.turns == TURNS), self.turns == TURNS, False, {}

    env = Bare()

    def run() -> None:
        for _ in range(episodes):
            env.reset()
            for _ in range(TURNS):
                _, reward, *_ = env.step(1)
            assert reward == 1.0

    return run


def gem(episodes: int) -> Run:
    from gem.core import Env
    from gem.tools.base_tool import BaseTool
    from gem.tools.tool_env_wrapper import ToolEnvWrapper

    class Add(BaseTool):  # type: ignore[misc]  # untyped
        tool_type = name = "add"

        def instruction_string(self) -> str:
            return 'Call tools as <tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'

        def execute_action(self, action: str) -> tuple[bool, bool, str, str]:
            found = CALL.search(action)
            if not found:
                return False, True, "", action
            arguments = json.loads(found.group(1))["arguments"]
            return True, False, str(arguments["a"] + arguments["b"]), action[: found.end()]

    class Counter(Env):  # type: ignore[misc]  # untyped
        def __init__(self, **_: Any) -> None:
            super().__init__()

        def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
            super().reset(seed)
            return "Add the numbers with the tool.", {}

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            return "", float(action == f"answer: {TOTAL}"), True, False, {}

    env, actions = ToolEnvWrapper(Counter(), tools=[Add()], max_tool_uses=10), as_text()

    def run() -> None:
        for _ in range(episodes):
            env.reset()
            for action in actions:
                _, reward, *_ = env.step(action)
            assert reward == 1.0

    return run


def skyrl(episodes: int) -> Run:
    import skyrl_gym
    from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput
    from skyrl_gym.tools.core import ToolGroup, tool

    class Group(ToolGroup):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            super().__init__(name="Group")

        @tool  # type: ignore[untyped-decorator]
        def add(self, a: int, b: int) -> int:
            return a + b

    class Counter(BaseTextEnv):  # type: ignore[misc]  # untyped
        def __init__(self, env_config: Any = None, extras: Any = None) -> None:
            super().__init__()
            self.init_tool_groups([Group()])
            self.total = 0

        def step(self, action: str) -> Any:
            self.turns += 1
            found = CALL.search(action)
            if not found:
                reward = float(action == f"answer: {self.total}")
                return BaseTextEnvStepOutput(observations=[], reward=reward, done=True, metadata={})
            call = json.loads(found.group(1))
            out = self._execute_tool("Group", call["name"], tuple(call["arguments"].values()))
            self.total += out
            seen = [{"role": "user", "content": str(out)}]
            return BaseTextEnvStepOutput(observations=seen, reward=0.0, done=False, metadata={})

    skyrl_gym.register(id="counter", entry_point=Counter)
    actions, prompt = as_text(), [{"role": "user", "content": "Add the numbers with the tool."}]

    def run() -> None:
        for _ in range(episodes):
            env = skyrl_gym.make("counter", env_config={}, extras={})
            env.init(prompt)
            for action in actions:
                out = env.step(action)
            assert out["reward"] == 1.0
            env.close()

    return run


def verifiers(episodes: int) -> Run:
    import verifiers as vf
    from datasets import Dataset
    from verifiers.clients.client import Client
    from verifiers.types import Response, ResponseMessage, ToolCall, Usage

    def add(a: int, b: int) -> int:
        """Add two integers.

        Args:
            a: first integer
            b: second integer
        """
        return a + b

    class Scripted(Client):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            super().__init__(object())

        def setup_client(self, config: Any) -> None:
            return None

        async def to_native_tool(self, tool: Any) -> Any:
            return tool

        async def to_native_prompt(self, messages: Any) -> Any:
            return messages, {}

        async def get_native_response(self, *a: Any, **k: Any) -> Any:
            raise NotImplementedError

        async def raise_from_native_response(self, response: Any) -> None:
            return None

        async def from_native_response(self, response: Any) -> Any:
            return response

        async def close(self) -> None:
            return None

        async def get_response(self, prompt: Any, model: Any, sampling_args: Any, tools: Any = None, **_: Any) -> Any:
            turn = sum(1 for m in prompt if m.role == "assistant")
            calls, why = None, "stop"
            said: str | None = f"answer: {TOTAL}"
            if turn < len(ARGUMENTS):
                calls = [ToolCall(id=f"c{turn}", name="add", arguments=json.dumps(ARGUMENTS[turn]))]
                said, why = None, "tool_calls"
            message = ResponseMessage(content=said, finish_reason=why, is_truncated=False, tool_calls=calls)
            usage = Usage(prompt_tokens=1, reasoning_tokens=0, completion_tokens=1, total_tokens=2)
            return Response(id="r", created=0, model=model, message=message, usage=usage)

    async def correct(completion: Any, answer: str) -> float:
        return float(completion[-1].content == f"answer: {answer}")

    data = Dataset.from_list([{"question": "Add the numbers with the tool.", "answer": str(TOTAL)}])
    env = vf.ToolEnv(dataset=data, tools=[add], max_turns=10, rubric=vf.Rubric(funcs=[correct]))
    client, row = Scripted(), env.get_dataset(1)[0]

    def run() -> None:
        inputs = [dict(row, example_id=i) for i in range(episodes)]
        out = asyncio.run(
            env.generate(inputs, client=client, model="scripted", max_concurrent=1, independent_scoring=True)
        )
        outs = out["outputs"] if isinstance(out, dict) else out.outputs
        assert len(outs) == episodes
        assert all(o["reward"] == 1.0 for o in outs)

    return run


def openenv(episodes: int) -> Run:
    from uuid import uuid4

    from fastmcp import FastMCP
    from openenv.core.env_server.mcp_environment import MCPEnvironment
    from openenv.core.env_server.mcp_types import CallToolAction
    from openenv.core.env_server.types import Observation, State

    class Counter(MCPEnvironment):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            server = FastMCP("counter")
            self.total, self.paid, self.finished = 0, 0.0, False

            @server.tool  # type: ignore[untyped-decorator]
            def add(a: int, b: int) -> int:
                "Add two integers."
                self.total += a + b
                return a + b

            @server.tool  # type: ignore[untyped-decorator]
            def submit(answer: int) -> str:
                "Submit the final answer."
                self.paid, self.finished = float(answer == self.total), True
                return "ok"

            super().__init__(server)
            self._state = State(episode_id=str(uuid4()), step_count=0)

        def reset(self, seed: Any = None, episode_id: Any = None, **_: Any) -> Any:
            self.total, self.paid, self.finished = 0, 0.0, False
            self._state = State(episode_id=episode_id or str(uuid4()), step_count=0)
            return Observation(done=False, reward=0.0)

        def _step_impl(self, action: Any, timeout_s: Any = None, **_: Any) -> Any:
            return Observation(done=False, reward=0.0)

        async def step_async(self, action: Any, timeout_s: Any = None, **more: Any) -> Any:
            seen = await super().step_async(action, timeout_s=timeout_s, **more)
            seen.reward, seen.done = self.paid, self.finished  # it sets neither for a tool call
            return seen

        @property
        def state(self) -> Any:
            return self._state

    actions = [*(("add", arguments) for arguments in ARGUMENTS), ("submit", {"answer": TOTAL})]

    async def play() -> None:
        env = Counter()
        for _ in range(episodes):
            await env.reset_async()
            for name, arguments in actions:
                seen = await env.step_async(CallToolAction(tool_name=name, arguments=arguments))
            assert seen.done
            assert seen.reward == 1.0

    return lambda: asyncio.run(play())


def inspect(episodes: int) -> Run:
    os.environ |= {"INSPECT_DISPLAY": "none", "INSPECT_LOG_LEVEL": "error"}
    from inspect_ai import Task
    from inspect_ai import eval as inspect_eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate, use_tools
    from inspect_ai.tool import tool

    @tool  # type: ignore[untyped-decorator]
    def add() -> Any:
        async def execute(a: int, b: int) -> int:
            """Add two integers.

            Args:
                a: first integer
                b: second integer
            """
            return a + b

        return execute

    def scripted(messages: Any, tools: Any, choice: Any, config: Any) -> Any:
        turn = sum(1 for m in messages if m.role == "assistant")
        model = "mockllm/model"
        said = (
            ModelOutput.for_tool_call(model, "add", ARGUMENTS[turn])
            if turn < len(ARGUMENTS)
            else ModelOutput.from_content(model, str(TOTAL))
        )
        said.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # else it counts tokens over a network
        return said

    folder = tempfile.mkdtemp()

    def run() -> None:
        model = get_model("mockllm/model", custom_outputs=scripted, memoize=False)
        samples = [Sample(input="Add the numbers.", target=str(TOTAL)) for _ in range(episodes)]
        task = Task(
            dataset=MemoryDataset(samples), solver=[use_tools(add()), generate(tool_calls="loop")], scorer=match()
        )
        log = inspect_eval(
            task, model=model, max_samples=1, max_connections=1, log_dir=folder, log_realtime=False, display="none"
        )[0]
        assert log.status == "success", log.error
        assert log.results.scores[0].metrics["accuracy"].value == 1.0

    return run


# ---- measuring -------------------------------------------------------------------------------------------------------

FAULTS = "unavailable:0.0,timeout_landed:0.0"
"""Two rates that are asked at each call, and never strike: all frameworks do the same work."""

SUBJECTS: dict[str, tuple[str, int, Callable[[int], Run], str]] = {
    "Sparring": ("", 800, lambda n: ours(n, FAULTS), "schema check, fault plan, outcomes, full record"),
    "Sparring, no fault plan": ("", 800, lambda n: ours(n, ""), "schema check, outcomes, full record"),
    "Gymnasium 1.4.0, bare": ("", 8000, bare, "nothing: no tool, no text, no record"),
    "gem-llm 0.1.0": ("small", 8000, gem, "text in and out; no schema check, no record"),
    "skyrl-gym 0.4.0": ("small", 4000, skyrl, "text in and out; no schema check, no record"),
    "verifiers 0.1.14": ("verifiers", 150, verifiers, "chat loop, tool call, scoring, record"),
    "OpenEnv 0.10.0": ("openenv", 60, openenv, "tool server in the same process"),
    "inspect-ai 0.3.285": ("inspect", 40, inspect, "chat loop, schema check, scoring, log on disk"),
}
"""Name -> (virtual environment or "", episodes in one measurement, how to play them, what a turn includes)."""


def cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(r.ru_utime + r.ru_stime for r in used)


def measure(name: str) -> float:
    """CPU milliseconds a turn in this process: the median of some measurements after one to warm up."""
    _, episodes, make, _ = SUBJECTS[name]
    run = make(episodes)
    run()
    times = []
    for _ in range(REPEATS):
        start = cpu()
        run()
        times.append((cpu() - start) / episodes / TURNS * 1e3)
    return statistics.median(times)


def in_a_process(python: str, name: str) -> float:
    """Raises `RuntimeError` with what it said last."""
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [python, __file__, "--one", name], capture_output=True, text=True, env=os.environ | quiet, timeout=600
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return float(done.stdout.strip().splitlines()[-1])


def prepared(folder: Path, group: str) -> str:
    """The Python of a virtual environment that holds the group's packages. Raises `RuntimeError`."""
    python = folder / group / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        print(f"installing {', '.join(INSTALLED[group])}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder / group)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *INSTALLED[group]]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"does not install: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return str(python)


def main(peers: bool, folder: Path) -> None:
    pythons: dict[str, str] = {"": sys.executable}
    failed: dict[str, str] = {}
    for group in INSTALLED if peers else ():
        try:
            pythons[group] = prepared(folder, group)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            failed |= {name: str(error) for name, subject in SUBJECTS.items() if subject[0] == group}
    wanted = [name for name, subject in SUBJECTS.items() if subject[0] in pythons]
    times: dict[str, list[float]] = {name: [] for name in wanted}
    for _ in range(ROUNDS):  # in turns: what else the machine does falls on all of them
        for name in wanted:
            if name not in failed:
                try:
                    times[name].append(in_a_process(pythons[SUBJECTS[name][0]], name))
                except (RuntimeError, subprocess.SubprocessError) as error:
                    failed[name] = str(error)
    base = statistics.median(times["Sparring"])
    print("| framework | ms CPU a turn | times ours | a turn includes |\n|---|---|---|---|")
    for name in wanted:
        if name not in failed:
            value = statistics.median(times[name])
            print(f"| {name} | {value:.4f} | {value / base:.3g} | {SUBJECTS[name][3]} |")
    for name, why in failed.items():
        print(f"left out: {name}: {why}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peers", action="store_true", help="install the peers and measure them too")
    parser.add_argument("--venvs", type=Path, help="folder of the peers' virtual environments, kept for the next time")
    parser.add_argument("--one", choices=list(SUBJECTS), help="measure this alone, in this process")
    asked = parser.parse_args()
    if asked.one:
        print(measure(asked.one))
    elif asked.venvs or not asked.peers:
        main(asked.peers, asked.venvs or Path())
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(peers=True, folder=Path(scratch))
