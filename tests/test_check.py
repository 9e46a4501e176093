"""The checker: for each kind of finding an environment that is wrong in that one way, and the one finding it gets.
And the border to Gymnasium that it checks: make, make_vec, wrappers, seeds, spaces."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import jsonschema
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

from sparring.envs import CheckProgress, Finding, Task, ToolEnv, check_env, make
from sparring.envs.check.findings import Subject
from sparring.envs.echo import Echo
from sparring.envs.facets import FaultHooks
from sparring.envs.spaces import ActionSpace, sample_json
from sparring.tools import NotFound, tool
from sparring.trajectories import Action, Message, Observation

DOC = "Open a door by its number.\n\n## Tools\n\n## Rewards\n\n## Episode End\n\n## Version History\n"


class Good(ToolEnv):
    __doc__ = DOC

    def tasks(self, split: Any, rng: random.Random) -> Iterable[Task]:
        first = {"train": 0, "validation": 100, "test": 200}[split]
        for number in range(first, first + 100):
            yield Task(f"Open door {number}.", {"door": number}, seed=rng.randrange(99))

    def setup(self, task: Task, rng: random.Random) -> None:
        self.state = {"open": [], "rng": rng.random()}

    @tool(effect=True)
    def open_door(self, door: int) -> str:
        """Open a door."""
        self.state["open"].append(door)
        return "open"

    @tool
    def doors(self) -> list[int]:
        """List the open doors."""
        return list(self.state["open"])

    def success(self, task: Task) -> bool:
        return bool(self.state["open"] == [task.data["door"]])

    def solve(self, task: Task) -> Any:
        if not self.success(task):
            yield "open_door", {"door": task.data["door"]}


def test_a_good_environment_has_no_findings() -> None:
    assert check_env(Good) == check_env(Good()) == []


# ---- documentation and tools -----------------------------------------------------------------------------------------


class NoHeadings(Good):
    """Open a door.

    ## Tools
    ## Rewards
    ## Episode End
    """


class Offers(Good):
    __doc__ = DOC

    def __init__(self) -> None:
        super().__init__()
        self.toolbox.tools["close_"] = self.toolbox.tools["doors"]
        self.action_space = ActionSpace(self.toolbox.specs)


class NoRoute(Good):
    __doc__ = DOC

    @tool(alternative="kick")
    def push(self, door: int) -> str:
        """Push a door."""
        return "pushed"


class NoSuchId(Good):
    __doc__ = DOC

    @tool(ids=["number"])
    def push(self, door: int) -> str:
        """Push a door."""
        return "pushed"

    fault_hooks = FaultHooks(rotate_id=lambda env, tool, arguments: False)


class NoRotation(Good):
    __doc__ = DOC

    @tool(ids=["door"])
    def push(self, door: int) -> str:
        """Push a door."""
        return "pushed"


class OddName(Good):
    __doc__ = DOC

    @tool(name="push the door")
    def push(self, door: int) -> str:
        """Push a door."""
        return "pushed"


class ReadsOnly(Good):
    __doc__ = DOC

    @tool
    def open_door(self, door: int) -> str:
        """Open a door."""
        self.state["open"].append(door)
        return "open"


class Helper(Good):
    __doc__ = DOC

    def knock_at(self, door: int) -> str:
        """Knock at a door."""
        return f"knocked at {door}"


class UsedHelper(Good):
    __doc__ = DOC

    def knock_twice(self, door: int) -> str:
        """Knock at a door, from `success`."""
        return f"knocked at {door}"

    def describe(self, task: Task) -> str:
        """A part of the framework's work: it takes a task."""
        return task.instruction

    def undescribed(self, door: int) -> str:
        return self.knock_twice(door)


class Untyped(Good):
    __doc__ = DOC

    @tool
    def push(self, door):  # type: ignore[no-untyped-def]  # what is tested
        """Push a door."""
        return "pushed"


class NoTools(Good):
    __doc__ = DOC
    open_door = doors = None  # type: ignore[assignment]  # what is tested


# ---- tasks -----------------------------------------------------------------------------------------------------------


class EmptySplit(Good):
    __doc__ = DOC

    def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
        yield from super().tasks(split, rng) if split != "test" else ()


class OtherTasks(Good):
    __doc__ = DOC
    made = 0

    def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
        self.made += 1
        yield from (Task(t.instruction, t.data, seed=self.made) for t in super().tasks(split, rng))


class Tuples(Good):
    __doc__ = DOC

    def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
        yield from (Task(t.instruction, {**t.data, "at": (1, 2)}) for t in super().tasks(split, rng))


class LowLevel(Good):
    __doc__ = DOC

    def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
        yield from (Task(t.instruction, t.data, level=0) for t in super().tasks(split, rng))


class SharedTasks(Good):
    __doc__ = DOC

    def tasks(self, split: Any, rng: random.Random) -> Iterable[Task]:
        return super().tasks("validation" if split == "test" else split, random.Random(0))


class SeedsAlone(Good):
    __doc__ = DOC

    def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
        for task in super().tasks("validation" if split == "test" else split, rng):
            yield Task(task.instruction, task.data, seed=rng.randrange(10**9))


class SameIds(Good):
    __doc__ = DOC

    def tasks(self, split: Any, rng: random.Random) -> Iterator[Task]:
        yield from (Task(t.instruction, t.data, id=f"{split}{i // 2}") for i, t in enumerate(super().tasks(split, rng)))


# ---- Gymnasium and the spaces ----------------------------------------------------------------------------------------


class WrongStep(Good):
    __doc__ = DOC

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=seed, options=options)[0]


class OddRender(Good):
    __doc__ = DOC

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, np.array(reward), terminated, truncated, info  # type: ignore[return-value]  # what is tested


class OtherSpace(Good):
    __doc__ = DOC

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Discrete(2)  # type: ignore[assignment]  # what is tested


class NobodyAsks(Good):
    __doc__ = DOC

    def prompt(self, task: Task) -> tuple[Message, ...]:
        return (Message("system", task.instruction),)


# ---- verdict and reward ----------------------------------------------------------------------------------------------


class NothingDone(Good):
    __doc__ = DOC

    def success(self, task: Task) -> bool:
        return len(self.state["open"]) < 2

    def solve(self, task: Task) -> Any:
        if not self.state["open"]:
            yield "open_door", {"door": task.data["door"]}


class GivesUp(Good):
    __doc__ = DOC

    def success(self, task: Task) -> bool:
        return super().success(task) or self.episode.declined


class ChangedByLooking(Good):
    __doc__ = DOC

    def success(self, task: Task) -> bool:
        self.state["rng"] += 1
        return super().success(task)

    reward_terms = {  # noqa: RUF012  # never changed
        "late": lambda ended: 0.001 * (ended.after["rng"] > 1.5) * (not ended.success)
    }


class EatsTheTask(Good):
    __doc__ = DOC

    def setup(self, task: Task, rng: random.Random) -> None:
        super().setup(task, rng)
        task.data["door"] += 1


class NumberForTruth(Good):
    __doc__ = DOC

    def success(self, task: Task) -> bool:
        return int(super().success(task))  # type: ignore[return-value]  # what is tested


class NanReward(Good):
    __doc__ = DOC

    reward_terms = {"style": lambda ended: float("nan")}  # noqa: RUF012  # never changed


class BigReward(Good):
    __doc__ = DOC

    reward_terms = {"success": lambda ended: 10.0 if ended.success else -5.0}  # noqa: RUF012  # never changed


class RewardsFailure(Good):
    __doc__ = DOC

    reward_terms = {"success": lambda ended: 1.0}  # noqa: RUF012  # never changed


class Raises(Good):
    __doc__ = DOC

    def success(self, task: Task) -> bool:
        return bool(self.state["opened"])


# ---- the same again --------------------------------------------------------------------------------------------------


class ByChance(Good):
    __doc__ = DOC

    @tool(effect=True)
    def open_door(self, door: int) -> str:
        """Open a door."""
        self.state["open"].append(door)
        return f"open {np.random.default_rng().random()}"


class UnseenChance(Good):
    __doc__ = DOC

    def setup(self, task: Task, rng: random.Random) -> None:
        super().setup(task, rng)
        random.random()


class Remembers(Good):
    __doc__ = DOC
    latest: Any = None

    def setup(self, task: Task, rng: random.Random) -> None:
        super().setup(task, rng)
        self.state["known"] = self.latest in (None, task.id)
        self.latest = task.id

    @tool
    def known(self) -> bool:
        """Say whether this task was the first."""
        return bool(self.state["known"])

    def solve(self, task: Task) -> Any:
        yield "known", {}
        yield from super().solve(task)


class OutsideState(Good):
    __doc__ = DOC

    def setup(self, task: Task, rng: random.Random) -> None:
        super().setup(task, rng)
        self.knocks = 0

    @tool
    def knock(self) -> int:
        """Knock."""
        self.knocks += 1
        return self.knocks

    def solve(self, task: Task) -> Any:
        yield "knock", {}
        yield "knock", {}
        yield from super().solve(task)


class Shallow(dict[str, Any]):
    def __deepcopy__(self, memo: Any) -> Shallow:
        return Shallow(self)


class ShallowCopy(Good):
    __doc__ = DOC

    def setup(self, task: Task, rng: random.Random) -> None:
        super().setup(task, rng)
        self.state = Shallow(self.state)


class Shelved(dict[str, Any]):
    def __deepcopy__(self, memo: Any) -> Shelved:
        return Shelved({**self, "open": list(self["open"]), "shelf": list(OneForAll.shelf)})


class OneForAll(Good):
    """What it keeps, it keeps for all environments."""

    __doc__ = DOC
    shelf: ClassVar[list[int]] = []

    def setup(self, task: Task, rng: random.Random) -> None:
        super().setup(task, rng)
        self.state = Shelved(self.state)
        self.shelf.clear()

    def restore(self, snapshot: Any) -> None:
        super().restore(snapshot)
        self.shelf[:] = snapshot.world["shelf"]

    @tool(effect=True)
    def put(self) -> int:
        """Put a thing on the shelf."""
        self.shelf.append(1)
        return len(self.shelf)

    def solve(self, task: Task) -> Any:
        yield "put", {}
        yield from super().solve(task)


# ---- calls and the expert --------------------------------------------------------------------------------------------


class Narrow(Good):
    __doc__ = DOC

    @tool
    def paint(self, colour: str) -> str:
        """Paint the doors."""
        from sparring.tools import InvalidArguments

        raise InvalidArguments("red or blue")


class Crashes(Good):
    __doc__ = DOC

    @tool
    def look_at(self, door: str) -> str:
        """Look at a door."""
        return {"1": "shut"}[door]


class Typed(Good):
    __doc__ = DOC

    @tool
    def look_at(self, door: str) -> str:
        """Look at a door: a typed failure is right."""
        raise NotFound(f"no door {door}")


class NoExpert(Good):
    __doc__ = DOC
    solve = ToolEnv.solve


class WeakExpert(Good):
    __doc__ = DOC

    def solve(self, task: Task) -> Any:
        if self.state["open"] != [task.data["door"] + 1]:
            yield "open_door", {"door": task.data["door"] + 1}


class MistypedExpert(Good):
    __doc__ = DOC

    def solve(self, task: Task) -> Any:
        yield "open_dor", {"door": task.data["door"]}


class FewerParameters(Good):
    __doc__ = DOC

    def setup(self, task: Task) -> None:  # type: ignore[override]  # the mistake
        self.state = {"open": []}


class LongExpert(Good):
    __doc__ = DOC
    max_turns = 3

    def solve(self, task: Task) -> Any:
        for _ in range(5):
            yield "doors", {}
        yield from super().solve(task)


class Distrusts(Good):
    """It does not look whether something has happened all the same."""

    __doc__ = DOC

    def solve(self, task: Task) -> Any:
        if self.toolbox.state.faults is not None or not self.success(task):
            yield "open_door", {"door": task.data["door"]}


class ForgetfulExpert(Good):
    """It opens what it has opened, where it is started again after a look."""

    __doc__ = DOC

    @tool
    def knock(self) -> str:
        """Knock."""
        return "come in"

    def solve(self, task: Task) -> Any:
        if self.toolbox.state.faults is not None:
            yield from super().solve(task)
            return
        yield "open_door", {"door": task.data["door"]}
        yield "knock", {}


FAULTY: list[tuple[type[ToolEnv], str, str, str]] = [
    (NoHeadings, "warning", "lacks ## Version History", "add these headings"),
    (Offers, "error", "'close_' is offered to the agent but is no @tool", "decorate it"),
    (NoRoute, "error", "alternative 'kick', which does not exist", "open_door, doors, push"),
    (NoSuchId, "error", "the id 'number', which is none", "door"),
    (NoRotation, "warning", "no fault_hooks with rotate_id", "write fault_hooks"),
    (OddName, "warning", "'push the door' has a name that model providers refuse", "64 letters"),
    (ReadsOnly, "warning", "no tool changes the world", "effect=True"),
    (Helper, "warning", "'knock_at' looks like a tool, and is none", "put @tool above it .* else name it _knock_at"),
    (Untyped, "error", "'door' has no type hint", "write `door: str`"),
    (NoTools, "error", "NoTools has no tools", "put @tool above"),
    (EmptySplit, "error", "'test' has no tasks", "train, validation, test"),
    (OtherTasks, "error", r"tasks\('(train|test|validation)', rng\) gives other tasks", "rng alone"),
    (Tuples, "error", "through JSON", "no tuples"),
    (LowLevel, "error", "level below 1", "from 1"),
    (SharedTasks, "error", "'validation' and 'test' share a task", "split by"),
    (SeedsAlone, "warning", "differ in their seed alone", "split by"),
    (SameIds, "error", "two tasks have the id", "leave id empty"),
    (WrongStep, "error", "Gymnasium's checker", "gymnasium.Env"),
    (OddRender, "warning", "Gymnasium's checker: .*reward", "gymnasium.Env"),
    (OtherSpace, "error", "action space is not made of the tools on offer", r"tool_rules\.offered\(env\)"),
    (NobodyAsks, "error", "does not begin with a message of the user", "let prompt"),
    (NothingDone, "error", "24 of 24 tasks .* succeed when nothing is done", "let success"),
    (GivesUp, "error", "24 of 24 tasks .* succeed when the agent gives up at once", r"self\.episode\.tick > 1"),
    (ChangedByLooking, "error", "judged twice, an episode comes to", "look, and change nothing"),
    (EatsTheTask, "error", "an episode changes its task: {'door': 1} became {'door': 3}", "copy what setup"),
    (NumberForTruth, "warning", r"success\(task\) gives 0", "True or False"),
    (NanReward, "error", "reward part 'style' is nan", "finite"),
    (BigReward, "warning", "reward is -5", "between -1 and 1"),
    (RewardsFailure, "error", "a failure is rewarded with 1", "full reward"),
    (Raises, "error", r"KeyError: 'opened' \(test_check.py, line \d+, in success\)", "fix that line"),
    (ByChance, "error", "does not go the same way twice: open_door gave", "no clock, no global random"),
    (UnseenChance, "warning", "draws from the global random generator", r"self\.episode\.rng"),
    (Remembers, "error", "a task goes another way after another task: known gave", "must not outlive it"),
    (OutsideState, "error", "restored in (the same environment|another one) goes another way", r"self\.state"),
    (ShallowCopy, "error", "restored in the same environment goes another way", "__deepcopy__"),
    (OneForAll, "error", "two episodes at the same time disturb each other: put gave", "no class attributes"),
    (Narrow, "error", "'paint' refuses arguments that fit its schema", "let the type hints say"),
    (Crashes, "error", "'look_at' raised KeyError", "raise a ToolError"),
    (NoExpert, "warning", "NoExpert has no expert", "define solve"),
    (
        FewerParameters,
        "error",
        r"setup\(\) takes 2 .* \(test_check.py, line \d+, in setup\)",
        r"def setup\(self, task, rng\)",
    ),
    (WeakExpert, "error", "clean, the expert fails 24 of 24 tasks", "let solve"),
    (
        MistypedExpert,
        "error",
        r"it calls 'open_dor', which is no tool \(test_check.py, line \d+, in solve\)",
        "'open_door'",
    ),
    (LongExpert, "error", "clean, the expert fails 24 of 24 tasks", "more than max_turns = 3: raise that"),
    (Distrusts, "warning", "under the fault timeout_landed, the expert fails", "look whether it happened"),
    (ForgetfulExpert, "error", "started again in mid-episode, the expert fails", "skip what is already done"),
]


@pytest.mark.parametrize(("cls", "severity", "what", "fix"), FAULTY, ids=[case[0].__name__ for case in FAULTY])
def test_one_mistake_is_one_finding(cls: type[ToolEnv], severity: str, what: str, fix: str) -> None:
    findings = check_env(cls)
    assert len(findings) == 1, findings
    assert findings[0].severity == severity
    assert re.search(what, findings[0].what), findings[0]
    assert re.search(fix, findings[0].how_to_fix), findings[0]


@pytest.mark.parametrize("cls", [UsedHelper, Typed])
def test_what_is_right_is_not_found_wrong(cls: type[ToolEnv]) -> None:
    assert check_env(cls) == []


def test_an_environment_with_options_is_checked_as_it_was_made() -> None:
    class Sized(Good):
        __doc__ = DOC

        def __init__(self, doors: int) -> None:
            super().__init__()
            self.most = doors

    assert check_env(Sized(3)) == []


def test_a_part_of_the_world_outside_of_the_state_is_told_by_what_differs() -> None:
    class Outside(Good):
        __doc__ = DOC

        def __init__(self) -> None:
            super().__init__()
            self.opened: list[int] = []

        def setup(self, task: Task, rng: random.Random) -> None:
            self.state, self.opened = {}, []

        @tool(effect=True)
        def open_door(self, door: int) -> str:
            """Open a door."""
            self.opened.append(door)
            return "open"

        @tool
        def doors(self) -> list[int]:
            """List the doors."""
            return [1, 2, 3]

        def success(self, task: Task) -> bool:
            return self.opened == [task.data["door"]]

    (found,) = check_env(Outside)
    assert found.what.endswith("goes another way: reward 1.0 and then 0.0")


def test_a_slow_world_is_played_less_and_progress_is_told() -> None:
    told: list[CheckProgress] = []

    class Slow(Good):
        __doc__ = DOC

        @tool
        async def count(self) -> int:
            """Count the open doors."""
            return len(self.state["open"])

    assert check_env(Slow, on_progress=told.append) == []
    assert [now.check for now in told if not now.note][:2] == ["documentation", "tools"]
    assert any(now.note.endswith("task 24 of 24") for now in told if now.check == "expert")
    seen: list[tuple[str, bool]] = []
    subject = Subject(Slow(), Slow, 24, on_progress=lambda note, cut: seen.append((note, cut)))
    subject.begin(-1.0)  # the time is up
    assert list(subject.some(range(9), 3)) == [0, 1, 2]
    assert seen[-1] == ("task 4 of 9", True)
    subject.begin(60.0)
    assert list(subject.some(range(9), 3)) == list(range(9))


def test_an_option_that_no_tool_has_is_told_with_the_authors_line() -> None:
    options: Any = {"efect": True}

    class Mistyped(Good):
        __doc__ = DOC

        @tool(**options)
        def shut(self, door: int) -> str:
            """Shut a door."""
            return "shut"

    (found,) = check_env(Mistyped)
    assert re.search(r"option 'efect', which no tool has \(test_check.py, line \d+, in shut\)", found.what)
    assert found.how_to_fix == "did you mean 'effect'?"


def test_the_checks_leave_the_global_generators_alone() -> None:
    before = random.getstate(), repr(np.random.get_state())
    check_env(Good)
    assert (random.getstate(), repr(np.random.get_state())) == before


def test_findings_are_sorted_and_plain() -> None:
    findings = check_env(ToolEnv)
    assert findings == sorted(findings, key=lambda finding: finding.severity)
    assert all(isinstance(finding, Finding) and finding.what and finding.how_to_fix for finding in findings)


# ---- Gymnasium's border: make, make_vec, wrappers, seeds -------------------------------------------------------------

IDS = ("sparring/Orders-v0", "sparring/Calendar-v0", "sparring/Shop-v0", "sparring/Incident-v0", "sparring/Echo-v0")
DONE = Action("Done.")


@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_own_checker_passes(name: str) -> None:
    gymnasium_check(gymnasium.make(name).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("name", IDS)
def test_a_seed_is_a_task(name: str) -> None:
    one, other = gymnasium.make(name), gymnasium.make(name)
    first = [one.reset(seed=seed)[0] for seed in range(8)]
    assert first == [other.reset(seed=seed)[0] for seed in range(8)]
    assert len({observation.messages[-1].content for observation in first}) > 2
    one.reset(seed=3)
    other.reset(seed=3)
    assert [one.reset()[0] for _ in range(4)] == [other.reset()[0] for _ in range(4)]  # and so are those that follow
    one.action_space.seed(1)
    other.action_space.seed(1)
    assert [one.action_space.sample() for _ in range(9)] == [other.action_space.sample() for _ in range(9)]


def played(vector: gymnasium.vector.VectorEnv[Any, Any, Any], steps: int = 12) -> list[Any]:
    """What a vector environment gives for sampled actions, each third step ending all episodes."""
    observations, _ = vector.reset(seed=1)
    vector.action_space.seed(7)
    seen: list[Any] = [observations]
    for step in range(steps):
        actions = (DONE,) * vector.num_envs if step % 3 == 2 else vector.action_space.sample()
        observations, rewards, terminated, truncated, info = vector.step(actions)
        seen.append((observations, rewards.tolist(), terminated.tolist(), truncated.tolist(), sorted(info)))
    vector.close()
    return seen


@pytest.mark.parametrize("name", ["sparring/Orders-v0", "sparring/Echo-v0"])
def test_behind_each_other_and_beside_each_other_is_the_same(name: str) -> None:
    """`shared_memory=False`: messages have no fixed size."""
    sync = played(gymnasium.make_vec(name, 3, vectorization_mode="sync"))
    side_by_side = gymnasium.make_vec(name, 3, vectorization_mode="async", vector_kwargs={"shared_memory": False})
    assert played(side_by_side) == sync
    assert any(all(step[2]) for step in sync[1:])
    assert len({observation.messages[-1].content for observation in sync[0]}) > 1


def test_success_stands_in_the_info_of_a_vector() -> None:
    vector = gymnasium.make_vec("sparring/Echo-v0", 2, vectorization_mode="sync")
    observations, _ = vector.reset(seed=3)
    words = [observation.messages[-1].content.removeprefix("Say ").rstrip(".") for observation in observations]
    vector.step((Action.call("say", word=words[0]), Action.call("say", word="nothing")))
    _, rewards, terminated, _, info = vector.step((DONE, DONE))
    assert rewards.tolist() == [1.0, 0.0]
    assert terminated.tolist() == [True, True]
    assert info["success"].tolist() == [True, False]
    assert all(type(inner.unwrapped) is Echo for inner in vector.envs)  # type: ignore[attr-defined]  # a sync one has them


def test_wrappers_cut_and_count() -> None:
    env = RecordEpisodeStatistics(TimeLimit(gymnasium.make("sparring/Orders-v0"), 3))
    env.reset(seed=2)
    env.action_space.seed(0)
    steps = [env.step(env.action_space.sample()) for _ in range(3)]
    assert [(terminated, truncated) for _, _, terminated, truncated, _ in steps] == [(False, False)] * 2 + [
        (False, True)
    ]
    assert steps[-1][4]["episode"]["l"] == 3
    env.reset(seed=2)
    *_, info = env.step(DONE)
    assert (info["episode"]["l"], info["episode"]["r"], info["success"]) == (1, 0.0, False)
    vector = gymnasium.wrappers.vector.RecordEpisodeStatistics(
        gymnasium.make_vec("sparring/Echo-v0", 2, wrappers=[lambda inner: TimeLimit(inner, 2)])
    )
    vector.reset(seed=1)
    for _ in range(2):
        *_, truncated, info = vector.step(vector.action_space.sample())
    assert truncated.tolist() == [True, True]
    assert info["episode"]["l"].tolist() == [2, 2]


def test_a_vector_is_played_by_experts(repository: Path) -> None:
    """A small run of the benchmark."""
    command = [sys.executable, "benchmarks/vector.py", "--episodes", "80", "--envs", "8", "--faults", "count=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("100.0%") == 3, done.stdout


def test_spaces_hold_what_they_sample() -> None:
    env = gymnasium.make("sparring/Calendar-v0").unwrapped
    assert isinstance(env, ToolEnv)
    assert env.observation_space.contains(env.observation_space.sample())
    assert "say" not in env.observation_space
    assert env.action_space == make("calendar").action_space != make("orders").action_space
    for tool_ in env.toolbox.tools.values():
        for seed in range(40):
            value = sample_json(tool_.spec.parameters, np.random.default_rng(seed))
            assert tool_.validator.is_valid(value), (tool_.name, value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["integer", "null"]},
        {"type": "integer", "multipleOf": 5, "minimum": 3, "maximum": 11},
        {"type": "number", "multipleOf": 0.25, "exclusiveMinimum": 1},
        {"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": -1},
        {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 2, "maxItems": 3},
        {"type": "array", "prefixItems": [{"type": "string"}, {"type": "boolean"}], "minItems": 2, "items": False},
        {"allOf": [{"$ref": "#/$defs/small"}], "description": "a small number", "$defs": {"small": {"const": 3}}},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "null"}, "required": ["a", "b"]},
        {"type": "string", "maxLength": 0},
        {"type": "string", "format": "ipv4"},
        {"$ref": "#/$defs/tree", "$defs": {"tree": {
            "type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
            "required": ["children"]}}},
        {},
    ],
    ids=str,
)  # fmt: skip
def test_samples_fit_the_schema(schema: dict[str, Any]) -> None:
    check = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for seed in range(60):
        value = sample_json(schema, np.random.default_rng(seed))
        assert check.is_valid(value), value
