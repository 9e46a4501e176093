"""Chat formats: what is read out of a sampled answer, how thinking is switched off, whose recorded ids are whose.

No torch: a tokenizer of bytes stands in for both kinds of vocabulary, with marks that are tokens and with marks that
are spelt.
"""

from __future__ import annotations

import importlib.util
import io
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from sparring import ConfigError, Task, ToolEnv, Trajectory
from sparring.agents import (
    FORMATS,
    AgentSettings,
    ChatAgent,
    EngineChat,
    EpisodeSpec,
    HermesFormat,
    LLMAgent,
    load_agent,
    rollout,
    scripted,
    tokens_of,
)
from sparring.agents.chat_format import encoding_of, format_for, owns, read_thinking, sampled_tokens, write_format
from sparring.agents.engines.fake import FakeEngine
from sparring.agents.fakes import ByteTokenizer
from sparring.agents.loading import chat_for
from sparring.envs import make, task_set
from sparring.trajectories import Action, Fork, Message, StopReason, ToolCall
from sparring.trajectories.curation import shared_turns
from sparring.trajectories.interchange import openai
from sparring.trajectories.pages.report.terminal import show_trajectory

MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
OPEN, CLOSE, _, _, THINK, UNTHINK = MARKS
END = 2  # <|im_end|>


def call(name: str, **arguments: Any) -> str:
    return f"{OPEN}\n{json.dumps({'name': name, 'arguments': arguments})}\n{CLOSE}"


@pytest.fixture(scope="module", params=["tokens", "spelt"])
def chat(request: pytest.FixtureRequest) -> HermesFormat:
    return HermesFormat(ByteTokenizer(MARKS if request.param == "tokens" else ()), tool_style="signature")


@pytest.fixture(scope="module")
def marked() -> HermesFormat:
    return HermesFormat(ByteTokenizer(MARKS), tool_style="signature")


def read(chat: HermesFormat, text: str, *, end: bool = True) -> Action:
    """What is read out of an answer whose marks are marks."""
    return chat.parse([*chat.tokenizer(text)["input_ids"], *[END] * end])


def names(action: Action) -> list[str]:
    return [c.name for c in action.tool_calls]


# --- thinking -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "calls", "content", "thinking"),
    [
        (f"{THINK}\nI could {call('rm')} but no.\n{UNTHINK}\n\nDone.", [], "Done.", f"I could {call('rm')} but no."),
        (f"{THINK}\nfirst {call('look')}\n{UNTHINK}\n{call('look')}", ["look"], "", f"first {call('look')}"),
        (f"{THINK}the tag is {OPEN}, hm{UNTHINK}{call('look')}", ["look"], "", f"the tag is {OPEN}, hm"),
        (f"{THINK}\nnever ends {call('rm')}", [], "", f"never ends {call('rm')}"),
        # A prompt may end in <think>: then only the end of thinking is sampled.
        (f"Hm, {call('rm')}, no.\n{UNTHINK}\n{call('look')}", ["look"], "", f"Hm, {call('rm')}, no."),
        (f"Hm, {OPEN}{{\n{UNTHINK}\nDone.", [], "Done.", f"Hm, {OPEN}{{"),
        (f'"{OPEN}", I "say {UNTHINK} {call("look")}', ["look"], "", f'"{OPEN}", I "say'),
        (f"Perhaps {MARKS[2]}7{MARKS[3]} comes. {UNTHINK} {call('look')}", ["look"], "",
         "Perhaps <tool_response>7</tool_response> comes."),
        # Twice, in the middle, and a stray end.
        (f"{THINK}a{UNTHINK}b{THINK}{call('rm')}{UNTHINK}c", [], "bc", f"a\n\n{call('rm')}"),
        (f"{call('look')}{THINK}{call('rm')}", ["look"], "", call("rm")),
        (f"{THINK}a{UNTHINK}{call('rm')}{UNTHINK}{call('look')}", ["look"], "", f"a\n\n{call('rm')}"),
        (f"{THINK}a {THINK} b{UNTHINK}c", [], "c", "a <think> b"),
        (f"{THINK}\n\n{UNTHINK}\n\nDone.", [], "Done.", ""),
    ],
)  # fmt: skip
def test_what_is_thought_is_neither_called_nor_said(
    chat: HermesFormat, text: str, calls: list[str], content: str, thinking: str
) -> None:
    action = read(chat, text)
    assert (names(action), action.content, action.thinking) == (calls, content, thinking)
    assert all(c.arguments == {} for c in action.tool_calls)


class Desk(ToolEnv):
    """Says what it was told."""

    system = "Work."

    def tasks(self, split: Any, rng: Any) -> Any:
        yield Task("Is it done?")

    def setup(self, task: Task, rng: Any) -> None:
        self.state = {}

    def success(self, task: Task) -> bool:
        return self.episode.said == "Done."


def played(chat: HermesFormat, *answers: str) -> Trajectory:
    """An episode of `Desk` in which these answers are sampled."""
    ids = [[*chat.tokenizer(text)["input_ids"], END] for text in answers]
    (t,) = rollout(Desk, LLMAgent(FakeEngine(ids), chat, max_turn_tokens=500), [EpisodeSpec(Task("Is it done?"))])
    return t


def test_nobody_is_told_what_was_thought(chat: HermesFormat) -> None:
    doubtful = played(chat, f"{THINK}I cannot do it.{UNTHINK}Done.")
    assert (doubtful.stop, doubtful.success, doubtful.final_text) == (StopReason.FINISHED, True, "Done.")
    silent = played(chat, f"{THINK}Done.{UNTHINK}No.")
    assert (silent.success, silent.final_text) == (False, "No.")
    assert played(chat, f"{THINK}Done.").success is False
    (turn,) = doubtful.turns
    assert turn.action.thinking == "I cannot do it."  # the record has it
    assert turn.action.shown == "<think>I cannot do it.</think>\nDone."
    assert Trajectory.from_json(doubtful.to_json()) == doubtful


def test_what_was_thought_is_shown_compared_and_counted(chat: HermesFormat) -> None:
    one, other = (played(chat, f"{THINK}{thought}{UNTHINK}Done.") for thought in ("First.", "Second."))
    page = Console(width=80, record=True, file=io.StringIO())
    page.print(show_trajectory(one))
    assert "<think>First.</think>" in page.export_text()
    bare = replace(one, tokens=None, turns=tuple(replace(turn, span=None) for turn in one.turns))
    assert shared_turns(bare, other) == 0
    assert openai.export([one, other]).report.lost["thinking"] == 2


def test_thinking_is_rendered_as_it_is_read(chat: HermesFormat) -> None:
    action = Action("Looking.", (ToolCall("look", {"at": 1}),), "First a look.")
    text = chat.tokenizer.decode(chat.answer(action))
    assert text == (
        "<think>\nFirst a look.\n</think>\n\nLooking.\n"
        '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call><|im_end|>'
    )
    again = chat.parse(chat.answer(action))
    assert (again.thinking, again.content, names(again)) == ("First a look.", "Looking.", ["look"])
    asked = [Message("user", "Go."), action.message, Message("tool", "ok")]
    history = chat.tokenizer.decode(chat.start(asked, ()))
    assert text in history  # a chat model that is asked with messages keeps its chain of thought


def test_thinking_is_switched_off_by_an_empty_block(marked: HermesFormat) -> None:
    off = HermesFormat(marked.tokenizer, tool_style="signature", thinking="off")
    asked, nothing = [Message("user", "Go.")], marked.tokenizer("<think>\n\n</think>\n\n")["input_ids"]
    assert off.start(asked, ()) == [*marked.start(asked, ()), *nothing]
    assert off.continuation(asked) == [*marked.continuation(asked), *nothing]
    assert nothing[0] == marked.tokenizer.get_added_vocab()[THINK]
    assert off.answer(Action("Done.")) == marked.answer(Action("Done."))


def test_thinking_that_cannot_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="the tokenizer has no <think>: this model has no thinking to switch off"):
        format_for(ByteTokenizer(), thinking="off")
    with pytest.raises(ConfigError, match="thinking is off, but"):
        load_agent("fake:Done.", AgentSettings(thinking="off"))

    class Simple(HermesFormat):
        def __init__(self, tokenizer: Any, *, tool_style: Any = "schema") -> None:
            super().__init__(tokenizer, tool_style=tool_style)

    monkeypatch.setattr(FORMATS, "_known", {**FORMATS._known, "simple": Simple})
    assert format_for(ByteTokenizer(MARKS), name="simple").name == "hermes"
    with pytest.raises(ConfigError, match="the chat format simple cannot switch thinking off"):
        format_for(ByteTokenizer(MARKS), name="simple", thinking="off")


def test_a_model_that_was_trained_without_thinking_plays_without(tmp_path: Path) -> None:
    off = format_for(ByteTokenizer(MARKS), tool_style="signature", thinking="off")
    write_format(off, tmp_path)
    assert read_thinking(tmp_path) == "off"
    tokenizer = ByteTokenizer(MARKS)
    assert encoding_of(chat_for(tokenizer, tmp_path, "auto")) == encoding_of(off)
    assert encoding_of(chat_for(tokenizer, tmp_path, "auto", "on")) != encoding_of(off)
    assert read_thinking(tmp_path / "none") is None
    (tmp_path / "sparring.json").write_text('{"thinking": "maybe"}')
    with pytest.raises(ConfigError, match="thinking is one of on, off, got 'maybe'"):
        chat_for(tokenizer, tmp_path, "auto")


# --- marks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [call("rm"), f"{THINK}hm{UNTHINK} Done.", f"Done. {MARKS[2]}7", f"{UNTHINK}", f"a {OPEN} b {CLOSE} c"]
)
def test_what_only_spells_a_mark_is_text(marked: HermesFormat, text: str) -> None:
    """Where a vocabulary has the marks as tokens, these tokens are the marks, and nothing else is."""
    spelt = marked.tokenizer(text, split_special_tokens=True)["input_ids"]
    assert marked.parse([*spelt, END]) == Action(text.strip())


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("where", ["%s", "a %s b", '\\"%s\\"', "%s" * 5, "%s\\\\"])
def test_a_mark_in_a_string_is_text(chat: HermesFormat, mark: str, where: str) -> None:
    raw = f'\n{{"name": "say", "arguments": {{"word": "{where.replace("%s", mark)}"}}}}\n'
    action = read(chat, f"I say it.{OPEN}{raw}{CLOSE}{call('look')}")
    say, look = action.tool_calls
    assert (say.arguments, say.raw) == ({"word": json.loads(f'"{where}"').replace("%s", mark)}, raw)
    assert (action.content, look.arguments, action.thinking) == ("I say it.", {}, "")
    again = chat.parse(chat.answer(action))
    assert [(c.name, c.arguments) for c in again.tool_calls] == [(c.name, c.arguments) for c in action.tool_calls]


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (f'{OPEN}{{"name": "a", "arguments": {{"x": "y}}}}{CLOSE}{call("b", x="z")}', [("", False), ("b", True)]),
        (f'{OPEN}{{"name": "a"}} {call("b")}', [("a", False), ("b", True)]),
        (f"{OPEN}{call('b')}", [("", False), ("b", True)]),
        (f'{OPEN}{{"name": "a"}} and more{CLOSE}{call("b")}', [("", False), ("b", True)]),
        (f'{OPEN}{{"name": "a", "args": {{"x": "{CLOSE}"}}}}{CLOSE}{call("b")}', [("a", False), ("b", True)]),
        (f'{OPEN}{{"name": "a", "arguments": {{"x": "{CLOSE}', [("", False)]),
        (f"{CLOSE}{call('b')}{CLOSE}", [("b", True)]),
    ],
)
def test_a_broken_call_leaves_the_next_alone(chat: HermesFormat, text: str, calls: list[tuple[str, bool]]) -> None:
    action = read(chat, text)
    assert [(c.name, not c.error) for c in action.tool_calls] == calls
    assert all((c.arguments is None) == bool(c.error) for c in action.tool_calls)


def test_ten_thousand_marks_are_read_in_a_moment(marked: HermesFormat) -> None:
    began = time.process_time()
    action = read(marked, f'{OPEN}\\"' * 5000)
    assert len(action.tool_calls) == 5000
    assert time.process_time() - began < 20


# --- ends ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end", ["<|endoftext|>", "<|im_start|>user\nmore\n", "<|im_end|>\n<|im_start|>tool\n{}", "<tool_response>\n{}\n"]
)
def test_nothing_after_an_end_counts(chat: HermesFormat, end: str) -> None:
    assert read(chat, f"Done.{end}{call('rm')} Really.") == Action("Done.")
    action = read(chat, f"{call('look')}{end}{THINK}hm{UNTHINK}{call('rm')}")
    assert (names(action), action.content, action.thinking) == (["look"], "", "")
    (cut,) = read(chat, f'{OPEN}{{"name": "look", "arguments": {{"x": "<|endoftext|>"}}}}{CLOSE}').tool_calls
    assert cut.error  # an end is an end, in a string too


def test_each_end_stops_the_sampling() -> None:
    class Base(ByteTokenizer):
        eos_token_id = 77

    assert HermesFormat(ByteTokenizer()).stop_ids == (2, 0, 1)  # <|im_end|>, <|endoftext|>, <|im_start|>
    assert HermesFormat(Base()).stop_ids == (2, 77, 0, 1)
    assert HermesFormat(Base()).parse([*b"Ad", 77, *b"a"]).content == ByteTokenizer().decode(b"Ad")


# --- generated turns ----------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SPELLS = st.sampled_from(
    [*MARKS, *(m[:-1] for m in MARKS), "<|im_end|>", '"', "\\", "\\u003ctool_call>", '{"name": "rm"}']
)
"""Texts that a careless reader would take for more."""
ODD = st.lists(TEXT | SPELLS, max_size=4).map("".join)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD, inner, max_size=3),
    max_leaves=8,
)
CALLS = st.lists(st.tuples(TEXT.filter(bool), st.dictionaries(ODD, JSON, max_size=3)), max_size=3)
quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(calls=CALLS, content=ODD, thinking=ODD)
def test_every_turn_that_is_rendered_is_read_back(
    chat: HermesFormat, calls: list[tuple[str, dict[str, Any]]], content: str, thinking: str
) -> None:
    """With marks that are tokens, and any texts. Where marks are spelt, only strings in calls spell them."""
    if not chat._marks and any(mark in content + thinking for mark in MARKS):
        content = thinking = ""
    action = Action(content, tuple(ToolCall(name, arguments) for name, arguments in calls), thinking)
    again = chat.parse(chat.answer(action))
    assert [(c.name, c.arguments, c.error) for c in again.tool_calls] == [(n, a, "") for n, a in calls]
    assert (again.content, again.thinking) == (content.strip(), thinking.strip())


@pytest.mark.parametrize("seed", [0, 1])
def test_no_draft_is_called_and_no_answer_raises(repository: Path, seed: int) -> None:
    """A share of what the benchmark tries: turns whose calls are known by how they are made, and soups."""
    spec = importlib.util.spec_from_file_location("answers", repository / "benchmarks" / "answers.py")
    assert spec is not None
    assert spec.loader is not None
    answers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(answers)
    kinds, mistakes = answers.tried(4000, seed)
    assert len(kinds) == 4
    assert min(kinds.values()) > 500
    assert mistakes == []


# --- whose ids ----------------------------------------------------------------------------------------------------


class Shifted(ByteTokenizer):
    """The same letters under other numbers."""

    def __call__(self, text: str, **options: Any) -> Any:
        ids = super().__call__(text, **options)["input_ids"]
        return {"input_ids": [id if id < 3 else 3 + (id - 3 + 7) % 256 for id in ids]}

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return super().decode([id if id < 3 else 3 + (id - 3 - 7) % 256 for id in ids])


def hermes(tokenizer: ByteTokenizer | None = None, **options: Any) -> HermesFormat:
    return HermesFormat(tokenizer or ByteTokenizer(), **{"tool_style": "signature", **options})


def echoed(chat: HermesFormat) -> Trajectory:
    """An episode that a model of this format sampled: a call, and a last message."""
    (task,) = task_set(make("echo"), "train", 1)
    word = task.instruction.split()[1].strip(".")
    said = [chat.tokenizer(call("say", word=word) + " ")["input_ids"], chat.tokenizer("Done. ")["input_ids"]]
    engine = FakeEngine([[*ids, END] for ids in said], max_context=100_000)
    (t,) = rollout("echo", LLMAgent(engine, chat, max_turn_tokens=500), [EpisodeSpec(task)])
    assert t.success
    return t


def test_an_encoding_names_vocabulary_and_format() -> None:
    same = {
        encoding_of(hermes()),
        encoding_of(hermes()),
        encoding_of(format_for(ByteTokenizer(), tool_style="signature")),
    }
    assert len(same) == 1
    assert next(iter(same)).startswith("hermes/signature/")
    others = {
        encoding_of(hermes(tool_style="schema")),
        encoding_of(hermes(Shifted())),
        encoding_of(hermes(ByteTokenizer(MARKS))),
        encoding_of(hermes(ByteTokenizer(MARKS), thinking="off")),
    }
    assert len(others | same) == 5

    class Permuted(ByteTokenizer):
        """Differs in a token that no probe meets."""

        def get_vocab(self) -> dict[str, int]:
            return {"never": 300, "ever": 301}

    class Other(Permuted):
        def get_vocab(self) -> dict[str, int]:
            return {"never": 301, "ever": 300}

    assert encoding_of(hermes(Permuted())) != encoding_of(hermes(Other()))

    class Unhashable(HermesFormat):
        __hash__ = None  # type: ignore[assignment]  # as a dataclass has it

    assert encoding_of(Unhashable(ByteTokenizer(), tool_style="signature")) in same


@pytest.mark.parametrize(
    "learner",
    [
        hermes(Shifted()),
        hermes(tool_style="schema"),
        hermes(ByteTokenizer(MARKS)),
        hermes(ByteTokenizer(MARKS), thinking="off"),
    ],
    ids=["another vocabulary", "another tool style", "more tokens", "no thinking"],
)
def test_ids_of_another_encoding_are_rendered_anew(learner: HermesFormat) -> None:
    t = echoed(hermes())
    assert t.tokens is not None
    assert t.tokens.encoding == encoding_of(hermes())
    assert tokens_of(hermes(), t)[0] is t.tokens
    assert sampled_tokens(hermes(), t) is t.tokens
    for record in (t, replace(t, tokens=replace(t.tokens, encoding=""))):  # and one that does not say whose it is
        assert not owns(learner, record)
        tokens, spans = tokens_of(learner, record)
        bare = replace(record, tokens=None, turns=tuple(replace(turn, span=None) for turn in record.turns))
        assert (tokens, spans) == tokens_of(learner, bare)
        assert tokens.encoding == encoding_of(learner)
        assert t.task.instruction in learner.tokenizer.decode(tokens.ids)
        with pytest.raises(
            ConfigError, match=r"RL needs the log-probabilities of the policy's own tokens, so play"
        ) as e:
            sampled_tokens(learner, record)
        assert encoding_of(learner) in str(e.value)
        assert record.tokens is not None
        assert (record.tokens.encoding or "that the record does not name") in str(e.value)


def test_a_record_that_does_not_say_whose_it_is_is_believed_by_its_prompt() -> None:
    t = echoed(hermes())
    assert t.tokens is not None
    old = Trajectory.from_json(t.to_json().replace(t.tokens.encoding.encode(), b""))
    assert old.tokens is not None
    assert old.tokens.encoding == ""
    assert tokens_of(hermes(), old)[0] is old.tokens
    assert sampled_tokens(hermes(), old) is old.tokens
    cut = replace(old, turns=(replace(old.turns[0], span=None), *old.turns[1:]))  # whose place nobody knows
    assert tokens_of(hermes(), cut) == tokens_of(hermes(), replace(cut, tokens=None))
    with pytest.raises(ConfigError, match="has no sampled tokens: RL needs a model's own episodes"):
        sampled_tokens(hermes(), replace(t, tokens=None))


def test_a_correction_of_another_models_episode_shares_none_of_its_ids() -> None:
    parent, learner = echoed(hermes()), hermes(Shifted())
    corrected = replace(parent, id="corrected", tokens=None, forked_from=Fork(parent.id, 1))
    assert parent.tokens is not None
    span = parent.turns[1].span
    assert span is not None
    own, _ = tokens_of(hermes(), corrected, parent)
    assert own.ids[: span[0]] == parent.tokens.ids[: span[0]]
    tokens, _ = tokens_of(learner, corrected, parent)
    assert tokens == tokens_of(learner, corrected)[0]
    assert parent.task.instruction in learner.tokenizer.decode(tokens.ids)


def test_a_model_of_another_vocabulary_goes_on_from_the_messages() -> None:
    parent = echoed(hermes())
    env = make("echo")
    env.start(parent.task)
    env.act(parent.turns[0].action)
    spec = EpisodeSpec(parent.task, start=env.snapshot(), parent=parent, fork=1)
    for chat, kept in ((hermes(), True), (hermes(Shifted()), False)):
        agent = LLMAgent(FakeEngine([chat.answer(Action("Done."))], max_context=100_000), chat)
        (t,) = rollout("echo", agent, [spec])
        assert t.tokens is not None
        assert parent.tokens is not None
        assert t.success
        assert t.tokens.encoding == encoding_of(chat)
        assert (t.tokens.ids[:20] == parent.tokens.ids[:20]) == kept
        assert sum(t.tokens.sampled) == len(chat.answer(Action("Done."))) + (
            sum(parent.tokens.sampled) - 7 if kept else 0
        )


def test_episodes_without_ids_are_rendered_for_whoever_learns() -> None:
    chat = hermes()
    asked = EngineChat(FakeEngine([chat.answer(Action("Done.", thinking="Hm."))]), chat)
    (t,) = rollout("echo", ChatAgent(asked), [EpisodeSpec(task_set(make("echo"), "train", 1)[0])])
    tokens, (span,) = tokens_of(hermes(ByteTokenizer(MARKS)), t)
    assert tokens.encoding == encoding_of(hermes(ByteTokenizer(MARKS)))
    assert span[1] == len(tokens)
    (expert,) = rollout("echo", scripted("expert"), [EpisodeSpec(t.task)])
    assert sum(tokens_of(chat, expert)[0].sampled) > 0
