"""Shared fixtures. No test touches the user's cache or the network, unless it says so."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sparring.envs import ToolEnv
    from sparring.tools import FaultPlan
    from sparring.trajectories import Task


@pytest.fixture(scope="session", autouse=True)
def sparring_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the test session's own; tiny models are built there once. Hubs are out of reach."""
    folder = tmp_path_factory.mktemp("sparring-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARRING_HOME", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", "120")  # help pages wrap alike everywhere
        yield folder


@pytest.fixture(scope="session")
def tiny_qwen3(sparring_home: Path) -> Path:
    """Folder of a random two-layer Qwen3 with a byte-level tokenizer."""
    from sparring.agents.models import fetch

    return fetch("tiny-qwen3")


@pytest.fixture(scope="session")
def tiny_llama(sparring_home: Path) -> Path:
    """Folder of a random two-layer Llama with a byte-level tokenizer."""
    from sparring.agents.models import fetch

    return fetch("tiny-llama")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums of several threads differ in their last bits from those of one; a killed run goes on in another process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def echo_run(tiny_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, float]]]:
    """A tiny model that says the word of `echo` about half of the time and idles else, by SFT; and the rows of its
    training. The tests of objectives begin with it."""
    import torch

    from sparring.agents import EpisodeSpec, rollout, scripted
    from sparring.envs import make, task_set
    from sparring.trainers import Data, Optim, Policy, Sft, SftSettings, train
    from sparring.trajectories.curation import gold

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of several threads differ in their last bits
    specs = [EpisodeSpec(task) for task in task_set(make("echo"), "train", 4)]
    data = [*gold(rollout("echo", scripted("expert"), specs)).items, *rollout("echo", scripted("do-nothing"), specs)]
    made = SftSettings(steps=100, batch=8, optim=Optim(lr=1e-2, schedule="linear", warmup=2), save_every=0)
    policy = Policy.load(tiny_qwen3, tool_style="signature", precision="fp32")
    rows: list[dict[str, float]] = []
    folder = tmp_path_factory.mktemp("echo")
    model = train(policy, Sft(made, Data(data)), folder, on_step=lambda run, row: rows.append(row))
    torch.set_num_threads(threads)
    return model, rows


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(os.path.realpath(__file__)).parent.parent


@pytest.fixture(scope="session")
def struck() -> Callable[[ToolEnv, Iterable[Task], FaultPlan, str], list[bool]]:
    """Plays tasks with a scripted agent under a fault plan -> success of each episode that a fault struck."""
    from sparring.agents import SCRIPTED
    from sparring.envs.experts import SAID

    def play(env: ToolEnv, tasks: Iterable[Task], plan: FaultPlan, agent: str) -> list[bool]:
        verdicts = []
        for task in tasks:
            env.start(task, plan)
            script = SCRIPTED[agent](env, 0)
            action = next(script)
            while (step := env.act(action)).stop is None:
                action = script.send(step.turn.results[0] if step.turn.results else SAID)
            if env.episode.faults_hit:
                verdicts.append(env.judge()[0])
        return verdicts

    return play
