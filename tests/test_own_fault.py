"""A kind of fault of one's own is one class: it strikes in a rollout, and plans, metrics, table and expert know it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sparring import Action, FaultPlan, Outcome, Task, ToolEnv, tool
from sparring.agents import EpisodeSpec, rollout, scripted
from sparring.tools import FAULTS, Fault, fault
from sparring.tools.errors import Forbidden
from sparring.tools.faults import Blocked, Injection, Struck, WayOut, fault_rows
from sparring.trajectories.errors import EnvError
from sparring.trajectories.metrics import RIGHT, right_strategy
from sparring.trajectories.metrics.recovery import blockages


@pytest.fixture
def toy() -> Iterator[str]:
    @fault
    class Toy(Fault):
        """The door is shut until someone knocks."""

        kind, recovers, wrong = "toy", "knock, then call again", "call again at once"
        right = ("other_tool",)
        lasts = "until somebody knocks"

        def strike(self, call: Struck) -> Injection | None:
            if not call.tool.effect:
                return None
            self.left(call.state)[""] = True
            return self.holds(call)

        def holds(self, call: Struck) -> Injection | None:
            return Injection(self.kind, Forbidden("shut", hint="knock")) if call.tool.effect else None

        def after(self, made: Any, state: Any) -> None:
            if made.name == "knock":
                del state.memory[self.kind]

        def way_out(self, blocked: Blocked) -> WayOut:
            knocked = yield Action.call("knock")
            return "again" if knocked.ok else None

    yield "toy"
    del FAULTS["toy"], RIGHT["toy"]


class Door(ToolEnv):
    """Goes through a door."""

    def tasks(self, split: str, rng: Any) -> Any:
        yield Task("Go in.")

    def setup(self, task: Task, rng: Any) -> None:
        self.state: dict[str, bool] = {"in": False}

    @tool(effect=True)
    def enter(self) -> str:
        """Go in."""
        self.state["in"] = True
        return "you are in"

    @tool
    def knock(self) -> str:
        """Knock at the door."""
        return "somebody comes"

    def success(self, task: Task) -> bool:
        return self.state["in"]

    def solve(self, task: Task) -> Any:
        if not self.state["in"]:
            yield "enter", {}


def test_one_class_is_known_everywhere(toy: str) -> None:
    (played,) = rollout(Door, scripted("expert"), [EpisodeSpec(Task("Go in."), FaultPlan.parse("count=1:toy@enter@3"))])
    assert played.faults_hit == ("toy",)
    assert [call.name for turn in played.turns for call in turn.action.tool_calls] == ["enter", "knock", "enter"]
    assert played.turns[0].results[0].outcome is Outcome.FORBIDDEN
    assert played.success is True

    (one,) = blockages(played)
    assert (one.fault, one.action, one.right) == ("toy", "other_tool", True)
    assert right_strategy([played], fault="toy").value == 1
    assert any(row.startswith("| `toy` | is told | until somebody knocks |") for row in fault_rows())
    assert "toy" in FaultPlan(count=1).kinds
    assert str(FaultPlan.parse("toy:0.5@1")) == "toy:0.5@1"


def test_without_its_own_way_out_the_expert_fails(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(FAULTS["toy"]), "way_out", Fault.way_out)
    (played,) = rollout(Door, scripted("expert"), [EpisodeSpec(Task("Go in."), FaultPlan.parse("count=1:toy@enter@3"))])
    assert played.success is False


def test_a_class_that_lacks_a_part_is_refused() -> None:
    with pytest.raises(EnvError, match="the fault Half has no `wrong`"):

        @fault
        class Half(Fault):
            kind, recovers, right = "half", "call again", ("retry_same",)

    with pytest.raises(EnvError, match="got dance"):

        @fault
        class Odd(Fault):
            kind, recovers, wrong, right = "odd", "call again", "stop", ("dance",)

    with pytest.raises(EnvError, match="named by a word"):

        @fault
        class Named(Fault):
            kind, recovers, wrong, right = "a:b", "call again", "stop", ("retry_same",)

    assert not {"half", "odd", "a:b"} & set(FAULTS)
