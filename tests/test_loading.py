"""From a text to an agent: engines and formats in one file each, chat models, fakes, settings."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sparring import ConfigError, InfrastructureError, UnknownName
from sparring.agents import (
    ENGINES,
    FORMATS,
    AgentSettings,
    Answer,
    ChatAgent,
    ChatModel,
    ChatSettings,
    EngineChat,
    EpisodeSpec,
    FakeChatModel,
    HermesFormat,
    Judge,
    LLMAgent,
    ModelSpec,
    TrainableEngine,
    format_for,
    load_agent,
    load_chat_model,
    rollout,
    scripted,
    tokens_of,
)
from sparring.agents.chat_format import read_format, write_format
from sparring.agents.engine import context_within
from sparring.agents.engines.fake import FakeEngine
from sparring.agents.fakes import ByteTokenizer
from sparring.agents.loading import chat_for, tool_style_of
from sparring.envs import make, task_set
from sparring.tools import FaultPlan
from sparring.trajectories import Action, Message, StopReason, Trajectory


@pytest.fixture(scope="module")
def toys() -> None:
    """The two files, as a user's own program would import them."""
    for name in ("toy_engine", "toy_format"):
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "toys" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def echo(n: int = 4) -> list[EpisodeSpec]:
    return [EpisodeSpec(task) for task in task_set(make("echo"), "train", n)]


# --- one file each ------------------------------------------------------------------------------------------------


def test_a_toy_engine_and_a_toy_format_play_and_teach(toys: None) -> None:
    agent = load_agent("toy:Done.", AgentSettings(parallel=2))
    assert isinstance(agent, LLMAgent)
    assert (agent.chat.name, agent.name, agent.parallel) == ("toy", "Done.", 2)
    played = rollout("echo", agent, echo())
    assert [t.success for t in played] == [True] * 4
    for t in played:
        assert t.tokens is not None
        assert [t.turns[0].span, t.turns[1].span] == [
            (a, b) for a, b in zip(*sampled_spans(t.tokens.sampled), strict=True)
        ]
        assert set(t.tokens.logprobs) == {0.0, -0.5}
    engine: TrainableEngine = agent.engine  # type: ignore[assignment]  # this engine can be trained
    engine.load([])
    assert agent.version == 1


def sampled_spans(sampled: Sequence[int]) -> tuple[list[int], list[int]]:
    """Starts and ends of the runs of 1."""
    edges = [b - a for a, b in zip([0, *sampled], [*sampled, 0], strict=True)]
    return [i for i, e in enumerate(edges) if e == 1], [i for i, e in enumerate(edges) if e == -1]


def test_training_reads_trajectories_in_the_toy_format(toys: None) -> None:
    from sparring.trainers.samples import samples_of

    agent = load_agent("toy:Done.")
    assert isinstance(agent, LLMAgent)
    (sampled,) = rollout("echo", agent, echo(1))
    (shown,) = rollout("echo", scripted("expert"), echo(1))
    rendered, spans = tokens_of(agent.chat, shown)
    assert sampled.tokens is not None
    assert rendered.ids == sampled.tokens.ids  # the expert does what the toy does: rendered and sampled are the same
    assert rendered.sampled == sampled.tokens.sampled
    assert spans == tuple(turn.span for turn in sampled.turns)
    (sample,) = samples_of(agent.chat, [shown], 4096)
    assert sample.weight == sum(rendered.sampled)


def test_the_toys_are_listed(toys: None) -> None:
    assert {"fake", "toy", "transformers"} <= set(ENGINES.names())
    assert {"hermes", "toy"} <= set(FORMATS.names())


# --- specs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "spec", "label"),
    [
        ("tiny-qwen3", ("transformers", "tiny-qwen3", ""), "tiny-qwen3"),
        ("Qwen/Qwen3-0.6B", ("transformers", "Qwen/Qwen3-0.6B", ""), "Qwen/Qwen3-0.6B"),
        ("./runs/sft/model", ("transformers", "./runs/sft/model", ""), "runs/sft"),
        ("./a:b", ("transformers", "./a:b", ""), "a:b"),
        ("C:\\models\\mine", ("transformers", "C:\\models\\mine", ""), "C:\\models\\mine"),
        ("transformers:odd#name", ("transformers", "odd#name", ""), "odd#name"),
        ("expert", ("script", "expert", ""), "expert"),
        ("vllm:http://host:8000#Qwen/Qwen3-4B", ("vllm", "http://host:8000", "Qwen/Qwen3-4B"), "Qwen/Qwen3-4B"),
        ("openai:https://host/v1", ("openai", "https://host/v1", ""), "host/v1"),
    ],
)
def test_what_a_text_means(text: str, spec: tuple[str, str, str], label: str) -> None:
    assert ModelSpec.parse(text) == ModelSpec(*spec)
    if os.name == "posix":
        assert ModelSpec.parse(text).label == label


@pytest.mark.parametrize("text", ["vllm:http://host:8000#m", "sglang:https://host/v1#m"])
def test_an_engine_that_does_not_exist(text: str) -> None:
    for load in (load_agent, load_chat_model):
        with pytest.raises(UnknownName, match=r"unknown engine '(vllm|sglang)'. Known: fake, .*transformers\."):
            load(text)


def test_what_cannot_be_loaded() -> None:
    with pytest.raises(ConfigError, match="no model was named"):
        load_agent(" ")
    with pytest.raises(ConfigError, match="expert is a scripted agent, which answers no messages"):
        load_chat_model("expert")
    assert load_agent("expert", name="the best").name == "the best"
    with pytest.raises(UnknownName, match="Did you mean 'tiny-qwen3'"):
        load_agent("tiny-qwen")


# --- formats ------------------------------------------------------------------------------------------------------


def test_the_format_follows_from_the_tokenizer(toys: None) -> None:
    chat = format_for(ByteTokenizer(), tool_style="signature")
    assert isinstance(chat, HermesFormat)
    assert chat.tool_style == "signature"
    assert format_for(ByteTokenizer(), name="toy").name == "toy"
    with pytest.raises(ConfigError, match=r"no chat format fits the tokenizer object: there are .*hermes, .*register"):
        format_for(object())
    with pytest.raises(UnknownName, match="Did you mean 'hermes'"):
        format_for(ByteTokenizer(), name="hermos")


def test_of_several_formats_the_best_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Better(HermesFormat):
        name = "better"

        @staticmethod
        def fits(tokenizer: Any) -> int:
            return 2 * HermesFormat.fits(tokenizer)

    class Equal(HermesFormat):
        name = "zz-equal"

    monkeypatch.setattr(FORMATS, "_known", {**FORMATS._known, "zz-equal": Equal})
    assert format_for(ByteTokenizer()).name == "hermes"
    monkeypatch.setattr(FORMATS, "_known", {**FORMATS._known, "better": Better})
    assert format_for(ByteTokenizer()).name == "better"


def test_a_saved_model_says_how_it_was_trained(toys: None, tmp_path: Path) -> None:
    assert read_format(tmp_path) == (None, None)
    write_format(format_for(ByteTokenizer(), tool_style="signature", name="toy"), tmp_path)
    assert read_format(tmp_path) == ("toy", "signature")
    chat = chat_for(ByteTokenizer(), tmp_path, "auto")  # its tokenizer alone would make it hermes
    assert (chat.name, chat.tool_style) == ("toy", "signature")
    assert chat_for(ByteTokenizer(), tmp_path, "schema").tool_style == "schema"
    (tmp_path / "sparring.json").write_text('{"format": "hermes", "tool_style": "mime"}')
    with pytest.raises(ConfigError, match="tool_style is one of schema, signature, got 'mime'"):
        chat_for(ByteTokenizer(), tmp_path, "auto")
    (tmp_path / "sparring.json").write_text("[]")
    assert read_format(tmp_path) == (None, None)


def test_tools_are_shown_by_the_size_of_the_model(tmp_path: Path) -> None:
    assert tool_style_of("smollm2-135m") == tool_style_of("tiny-llama") == "signature"
    assert tool_style_of("Qwen/Qwen3-0.6B") == "schema"
    for width, style in ((1023, "signature"), (1024, "schema")):
        (tmp_path / "config.json").write_text(f'{{"hidden_size": {width}}}')
        assert tool_style_of(tmp_path) == style
    assert tool_style_of(tmp_path, "signature") == "signature"


def test_policies_keep_and_read_the_format(tiny_llama: Path, tmp_path: Path) -> None:
    from sparring.trainers.model import Policy

    assert Policy.load(tiny_llama).chat.tool_style == "signature"  # a small model
    Policy.load(tiny_llama, tool_style="schema").save(tmp_path)
    assert read_format(tmp_path) == ("hermes", "schema")
    assert Policy.load(tmp_path).chat.tool_style == "schema"
    agent = load_agent(str(tmp_path))
    assert isinstance(agent, LLMAgent)
    assert agent.chat.tool_style == "schema"


# --- context ------------------------------------------------------------------------------------------------------


def test_the_context_is_bounded_by_the_model() -> None:
    assert context_within(None, None) == context_within(None, 32_768) == 4096
    assert context_within(None, 2048) == context_within(2048, 2048) == 2048
    assert context_within(10_000, None) == 10_000
    with pytest.raises(ConfigError, match="max_context is 2049 tokens, but the model takes 2048 at most"):
        context_within(2049, 2048)
    with pytest.raises(ConfigError, match="1 token or more, got 0"):
        context_within(0, 2048)


def test_max_context_is_a_setting_everywhere(tiny_llama: Path) -> None:
    from sparring.trainers.model import Policy

    for limit in (300, 8192):
        agent = load_agent("tiny-llama", AgentSettings(max_context=limit, parallel=2))
        assert isinstance(agent, LLMAgent)
        assert agent.engine.max_context == agent.max_context == limit
    with pytest.raises(ConfigError, match="max_context is 8193 tokens, but the model tiny-llama takes 8192 at most"):
        load_agent("tiny-llama", AgentSettings(max_context=8193))
    policy = Policy.load(tiny_llama)
    assert policy.agent(parallel=2).max_context == 4096
    assert policy.agent(parallel=2, max_context=8192).max_context == 8192
    assert policy.agent(parallel=2).max_context == 4096
    with pytest.raises(ConfigError, match=r"8193 tokens, but .* takes 8192"):
        policy.agent(max_context=8193)
    with pytest.raises(ConfigError, match="101 tokens, but the engine takes 100"):
        LLMAgent(FakeEngine([[2]], max_context=100), format_for(ByteTokenizer()), max_context=101)


def test_a_device_that_is_not_here() -> None:
    with pytest.raises(ConfigError, match="device 'abacus': expected cpu, cuda or cuda:N"):
        load_agent("tiny-llama", AgentSettings(device="abacus"))
    with pytest.raises(ConfigError, match=r"device 'cuda:99': torch finds (no GPU|\d+ GPUs)"):
        load_agent("tiny-llama", AgentSettings(device="cuda:99"))


# --- chat models --------------------------------------------------------------------------------------------------


def says(messages: Sequence[Message], settings: ChatSettings) -> Action | str:
    """Does what echo wants."""
    if messages[-1].role == "tool":
        return "Done."
    return Action.call("say", word=messages[-1].content.removeprefix("Say ").removesuffix("."))


def test_a_chat_model_plays_without_token_ids() -> None:
    model = FakeChatModel(says)
    agent = ChatAgent(model, name="served", max_turn_tokens=9, temperature=0.5, parallel=2)
    played = rollout("echo", agent, [EpisodeSpec(e.task, seed=7) for e in echo()])
    assert [(t.success, t.tokens, t.agent) for t in played] == [(True, None, "served")] * 4
    assert len(model.calls) == 8
    assert sorted(model.released) == ["s0", "s1", "s2", "s3"]
    messages, tools, settings = next(c for c in model.calls if c[2].session == "s0")
    assert [m.role for m in messages] == ["system", "user"]
    assert [t.name for t in tools] == ["say"]
    assert settings == ChatSettings(0.5, 9, 7, "s0")
    messages, _, _ = [c for c in model.calls if c[2].session == "s0"][1]
    assert [m.role for m in messages] == ["system", "user", "assistant", "tool"]
    assert messages[2].tool_calls[0].id == messages[3].tool_call_id == "c1"  # endpoints match them by id
    assert messages == played[0].messages()[:4]
    rendered, _ = tokens_of(format_for(ByteTokenizer()), played[0])  # as a demonstration for somebody else
    assert sum(rendered.sampled) > 0


def test_a_chat_model_takes_up_a_fork() -> None:
    (parent,) = rollout("echo", ChatAgent(FakeChatModel(says)), echo(1))
    env = make("echo")
    env.start(parent.task)
    env.act(parent.turns[0].action)
    model = FakeChatModel(says)
    fork = EpisodeSpec(parent.task, start=env.snapshot(), parent=parent, fork=1)
    (again,) = rollout("echo", ChatAgent(model), [fork])
    assert again.success
    assert len(model.calls) == 1
    assert model.calls[0][0] == parent.messages()[:4]


class Limited(FakeChatModel):
    """Cuts its last answer, or finds that the conversation has become too long."""

    def __init__(self, last: Answer) -> None:
        super().__init__(says)
        self.last = last

    async def answer(self, messages: Sequence[Message], tools: Any, settings: ChatSettings) -> Answer:
        given = await super().answer(messages, tools, settings)
        return self.last if messages[-1].role == "tool" else given


@pytest.mark.parametrize(("last", "turns"), [(Answer(Action("Do"), stopped=False), 2), (Answer(None), 1)])
def test_limits_of_a_chat_model(last: Answer, turns: int) -> None:
    (t,) = rollout("echo", ChatAgent(Limited(last)), echo(1))
    assert (t.stop, len(t.turns), t.judged) == (StopReason.TOKEN_LIMIT, turns, True)


def test_a_chat_model_that_is_gone() -> None:
    (t,) = rollout("echo", ChatAgent(FakeChatModel([InfrastructureError("the endpoint is gone")])), echo(1))
    assert (t.stop, t.error, t.judged) == (StopReason.INFRASTRUCTURE, "the endpoint is gone", False)


def test_an_engine_with_a_format_is_a_chat_model() -> None:
    chat = format_for(ByteTokenizer())
    engine = FakeEngine(lambda prompt: chat.answer(Action("Hello.")), max_context=300)
    model: ChatModel = EngineChat(engine, chat)
    asked = [Message("system", "Be brief."), Message("user", "Hi.")]

    async def ask(**settings: Any) -> Answer:
        return await model.answer(asked, (), ChatSettings(**settings))

    assert asyncio.run(ask()) == Answer(Action("Hello."))
    assert engine.released == ["answer0"]  # a single answer leaves nothing behind
    assert asyncio.run(ask(max_tokens=3)) == Answer(Action("Hel"), stopped=False)
    assert asyncio.run(ask(session="kept")).stopped
    assert engine.released == ["answer0", "answer1"]
    model.release("kept")
    assert engine.released[-1] == "kept"
    assert asyncio.run(ask(max_tokens=300)) == Answer(None)
    assert engine.calls == 3  # what does not fit is not asked
    engine.load([("w", 1.0)])
    assert (model.version, engine.weights) == (1, {"w": 1.0})


def test_the_two_ways_to_play_an_engine_are_the_same_episode() -> None:
    """As a chat model it renders the whole conversation anew; as an agent with token ids it goes on."""
    chat = format_for(ByteTokenizer(), tool_style="signature")
    prompts: dict[str, list[list[int]]] = {}

    def engine(name: str) -> FakeEngine:
        def answer(prompt: list[int]) -> list[int]:
            prompts.setdefault(name, []).append(list(prompt))
            said = [Message("tool" if "tool\n" in ByteTokenizer().decode(prompt) else "user", "Say dune.")]
            action = says(said, ChatSettings())
            return chat.answer(Action(action) if isinstance(action, str) else action)

        return FakeEngine(answer)

    (one,) = rollout("echo", LLMAgent(engine("ids"), chat, max_turn_tokens=100), echo(1))
    (other,) = rollout("echo", ChatAgent(EngineChat(engine("messages"), chat), max_turn_tokens=100), echo(1))
    assert one.messages() == other.messages()
    assert prompts["ids"] == prompts["messages"]
    assert len(prompts["ids"]) == 2


def test_a_judge_is_any_chat_model() -> None:
    task = task_set(make("orders"), "train", 1)[0]
    episode = EpisodeSpec(task, FaultPlan.parse("count=1:unavailable@3"))
    a, b = (rollout("orders", scripted(name), [episode])[0] for name in ("expert", "give-up"))
    model = FakeChatModel(["Hm.", "Verdict: A"])
    judge = Judge(model, seed=3)
    assert judge(a, b) == "a"
    assert [(c[2].temperature, c[2].seed) for c in model.calls] == [(0.0, 3), (1.0, 4)]
    judge.close()
    short = Judge(Silent())
    assert short(a, b) is None
    with pytest.raises(ConfigError, match="does not fit into the judge's context"):
        short.ask("Grade it.")
    short.close()


class Silent(FakeChatModel):
    """Nothing fits into its context."""

    def __init__(self) -> None:
        super().__init__([""])

    async def answer(self, messages: Sequence[Message], tools: Any, settings: ChatSettings) -> Answer:
        return Answer(None)


# --- fakes --------------------------------------------------------------------------------------------------------


def test_bytes_are_tokens() -> None:
    tokenizer = ByteTokenizer()
    text = "<|im_start|>tool\nä 漢字 🙂<|im_end|>\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert ids.count(1) == ids.count(2) == 1
    split = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert min(split) > 2
    assert tokenizer.decode(split) == text


def test_fakes_play_from_a_list() -> None:
    agent = load_agent("fake:Done.")
    assert isinstance(agent, LLMAgent)
    played = rollout("echo", agent, echo(2))
    assert [(t.stop, t.success, t.final_text) for t in played] == [(StopReason.FINISHED, False, "Done.")] * 2
    assert isinstance(agent.engine, FakeEngine)
    assert agent.engine.calls == 2
    chat = format_for(ByteTokenizer())
    turns = [chat.answer(Action.call("say", word="dune")), chat.answer(Action("Done."))]
    engine = FakeEngine(turns, logprob=-2.0)
    scripted_engine = rollout("echo", LLMAgent(engine, chat, max_turn_tokens=100), echo(2))
    assert [len(t.turns) for t in scripted_engine] == [2, 2]  # each session has its own place in the list
    assert all(t.tokens is not None and set(t.tokens.logprobs) == {0.0, -2.0} for t in scripted_engine)


def test_without_torch(tmp_path: Path) -> None:
    """Rollouts, judges and evaluation by fakes, in a Python that has neither torch nor transformers."""
    script = """
        import sys
        for missing in ("torch", "transformers", "tokenizers"):
            sys.modules[missing] = None
        from sparring.agents import EpisodeSpec, FakeChatModel, Judge, ChatAgent, load_agent, rollout, tokens_of
        from sparring.agents.evaluation import Condition, evaluate
        from sparring.envs import make, task_set
        episodes = [EpisodeSpec(task) for task in task_set(make("echo"), "train", 2)]
        agent = load_agent("fake:Done.")
        a, b = rollout("echo", agent, episodes)
        assert a.tokens.ids and tokens_of(agent.chat, a)[0] is a.tokens
        chat = ChatAgent(FakeChatModel(["Done."]))
        assert len(evaluate(chat, [Condition("clean", "echo", n=2)])["clean"]) == 2
        judge = Judge(FakeChatModel(["Verdict: tie"]))
        print(judge(a, a))
        judge.close()
    """
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=120,
    )
    assert done.stdout.strip() == "tie", done.stderr


def test_a_trajectory_of_a_chat_model_is_a_record() -> None:
    (t,) = rollout("echo", ChatAgent(FakeChatModel(says)), echo(1))
    assert Trajectory.from_json(t.to_json()) == t
