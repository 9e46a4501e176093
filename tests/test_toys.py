"""An addition is one file: a toy objective, stage and environment in one recipe. (A toy engine and chat format are in
`test_loading`, a toy kind of fault in `test_own_fault`.)"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparring.agents import EpisodeSpec, rollout, scripted
from sparring.envs import check_env, task_set
from sparring.tools import FaultPlan
from sparring.trainers import OBJECTIVES, Mixture, run_recipe
from sparring.trainers.stage import STAGES

TOYS = Path(__file__).parent / "toys"
BOX = f"{TOYS}/toy_env.py:Box"


class Quiet:
    def stage(self, title: str, index: int, of: int, *, reused: bool) -> None: ...

    def progress(self, done: int, total: int, note: str = "", seconds_left: float | None = None) -> None: ...

    def say(self, text: str) -> None: ...


@pytest.fixture(scope="module", autouse=True)
def toys() -> None:
    for name in ("toy_objective", "toy_stage"):
        spec = importlib.util.spec_from_file_location(name, TOYS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


def test_the_toys_are_listed() -> None:
    assert "toy" in OBJECTIVES
    assert "shortest" in STAGES


def test_a_toy_environment_is_one_of_a_mixture() -> None:
    assert [finding for finding in check_env(BOX) if finding.severity == "error"] == []
    drawn = Mixture.of(f"3*{BOX}", "orders", faults=(("", 1.0), ("count=1:unavailable", 1.0))).draw(40, seed=0)
    assert len(drawn) == 40
    assert 22 <= sum(spec.env == BOX for spec in drawn) <= 38  # three in four, rounded by chance
    assert {bool(str(spec.plan)) for spec in drawn} == {True, False}
    played = rollout(BOX, scripted("expert"), drawn)
    assert all(t.success for t in played)
    assert {t.env for t in played} == {"sparring/Orders-v0", BOX}
    assert Mixture.of(f"3*{BOX}", "orders", faults=(("", 1.0),)).draw(40, seed=0) != drawn


def test_a_recipe_of_toys(tmp_path: Path) -> None:
    """The toy environment, stage and objective, named in a YAML file as the ones that come with Sparring are."""
    recipe: dict[str, Any] = {
        "model": "tiny-qwen3",
        "faults": ["unavailable"],
        "policy": {"precision": "fp32", "parallel": 4},
        "baseline": "toy",
        "conditions": {"clean": {"n": 2}, "one fault": {"n": 2, "faults": "count=1:{kinds}"}},
        "stages": {
            "shown": {"kind": "demonstrations", "n": 8, "faults": "count=1:{kinds}"},
            "short": {"kind": "shortest", "of": "shown", "n": 3},
            "toy": {
                "kind": "train",
                "objective": "toy",
                "episodes": ["short"],
                "settings": {"steps": 12, "floor": 0.5, "optim": {"lr": 1e-2}},
            },
            "measured": {"kind": "evaluate", "model": "toy", "arm": "toy"},
        },
    }
    path = tmp_path / "toys.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    result = run_recipe(BOX, "", recipe=str(path), folder=tmp_path / "run", watcher=Quiet())
    assert [arm.name for arm in result.arms] == ["toy"]
    assert {name: len(played) for name, played in result.arms[0].conditions.items()} == {"clean": 2, "one fault": 2}
    assert len((tmp_path / "run" / "short" / "episodes.jsonl").read_bytes().splitlines()) == 3
    rows = [json.loads(line) for line in (tmp_path / "run" / "toy" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["nll"] < rows[0]["nll"] - 1
    assert result.report.is_file()


def test_the_expert_survives_a_fault_in_the_toy_environment() -> None:
    from sparring.envs import make

    tasks = task_set(make(BOX), "test", 10)
    played = rollout(BOX, scripted("expert"), [EpisodeSpec(t, FaultPlan(count=1)) for t in tasks])
    assert sum(bool(t.faults_hit) for t in played) >= 8
    assert all(t.success for t in played)
