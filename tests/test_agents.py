"""Agents: chat format against a reference template, engine against plain Hugging Face, rollouts, replay, scripts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from sparring.agents import (
    EpisodeSpec,
    Generated,
    HermesFormat,
    LLMAgent,
    Sampling,
    ScriptedAgent,
    rollout,
    scripted,
    tokens_of,
)
from sparring.agents.engines.transformers import TransformersEngine
from sparring.agents.engines.transformers.sampling import sample
from sparring.agents.evaluation import Condition, evaluate, seed_of
from sparring.agents.models import load_model, load_tokenizer, quiet
from sparring.agents.replay import corrections, first_mistake, replay
from sparring.agents.rollouts import RolloutWarning
from sparring.envs import ToolEnv, expert_turns, make, task_set
from sparring.envs.echo import Echo
from sparring.envs.orders.env import Orders
from sparring.envs.spaces import sample_json
from sparring.tools import FaultPlan
from sparring.trajectories import (
    Action,
    Cause,
    ConfigError,
    DataError,
    Fork,
    InfrastructureError,
    Message,
    Outcome,
    StopReason,
    Task,
    Tokens,
    ToolCall,
    ToolSpec,
    Trajectory,
    TrajectoryGroup,
    Turn,
    UnknownName,
)
from sparring.trajectories.curation import correction_pairs

TOLERANCE = 1e-4
END = 2  # <|im_end|> of the tiny tokenizers

# --- chat --------------------------------------------------------------------------------------------------------

# ChatML as SmolLM2 and Qwen publish it, tool calls as Hermes and Qwen do, results under the role `tool`.
REFERENCE = """
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- '\\n' if message.content or not loop.first else '' -}}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
{{- call.function.arguments | tojson + '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

SPEC = ToolSpec(
    "find_order",
    "Find an order.",
    {
        "type": "object",
        "properties": {"customer": {"type": "string"}, "most": {"type": "integer"}, "kind": {"enum": ["a", "b"]}},
        "required": ["customer", "kind"],
    },
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(max_size=8), JSON, max_size=4)


@pytest.fixture(scope="module", params=["tiny_qwen3", "tiny_llama"])
def family(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture(scope="module")
def chat(family: Path) -> HermesFormat:
    return HermesFormat(load_tokenizer(family), tool_style="signature")


def wire(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """What chat templates take: arguments as objects."""
    out = []
    for message in messages:
        one: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            one["tool_calls"] = [
                {"type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in message.tool_calls
            ]
        out.append(one)
    return out


def rendered(chat: HermesFormat, messages: Sequence[Message], opening: bool = False) -> list[int]:
    ids = chat.tokenizer.apply_chat_template(
        wire(messages), chat_template=REFERENCE, add_generation_prompt=opening, tokenize=True, return_dict=False
    )
    return list(ids)


def blocks(chat: HermesFormat, ids: Sequence[int]) -> list[tuple[str, str, list[int]]]:
    """(role, content, ids of the content), by control ids alone: what text spells cannot open a block."""
    out: list[list[int]] = []
    for id in ids:
        if id == chat.start_id:
            out.append([])
        elif out:
            out[-1].append(id)
    found = []
    for block in out:
        body = block[: block.index(END)] if END in block else block
        role, _, content = chat.tokenizer.decode(body).partition("\n")
        found.append((role, content, body))
    return found


def test_turn_by_turn_equals_the_full_render(chat: HermesFormat) -> None:
    prompt = [Message("system", "Be brief."), Message("user", "Lend 'Dünë' to Ada 🙂.")]
    first = Action("Looking.", (ToolCall("find", {"title": "Dünë", "n": [1, 2.5, None]}),))
    second = Action("", (ToolCall("lend", {}), ToolCall("lend", {"id": 7})))
    last = Action("Done.")
    results = [Message("tool", '{"id":7}'), Message("tool", ""), Message("tool", "lent\n")]

    ids = chat.start(prompt, ())
    assert ids == rendered(chat, prompt, opening=True)
    ids += chat.answer(first) + chat.continuation(results[:1])
    sofar = [*prompt, first.message, results[0]]
    assert ids == rendered(chat, sofar, opening=True)
    ids += chat.answer(second) + chat.continuation(results[1:])
    sofar += [second.message, *results[1:]]
    assert ids == rendered(chat, sofar, opening=True)
    ids += chat.answer(last)
    newline = chat.tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert [*ids, *newline] == rendered(chat, [*sofar, last.message])


def test_a_cut_answer_gets_its_end_from_the_continuation(chat: HermesFormat) -> None:
    results = [Message("tool", "ok")]
    assert chat.continuation(results, stopped=False) == [END, *chat.continuation(results)]
    assert END not in chat.continuation([])  # the end of the answer was sampled, and stands only once


def test_qwen_calls_are_tokens_and_llama_spells_them(chat: HermesFormat, family: Path) -> None:
    answer = chat.answer(Action.call("say", word="hi"))
    mark = chat.tokenizer.get_added_vocab().get("<tool_call>")
    assert (mark is not None) == ("qwen3" in family.name)
    if mark is not None:
        assert answer[0] == mark
    assert chat.tokenizer.decode(answer) == (
        '<tool_call>\n{"name": "say", "arguments": {"word": "hi"}}\n</tool_call><|im_end|>'
    )


def test_the_system_prompt_lists_tools_in_both_styles(chat: HermesFormat) -> None:
    messages = [Message("system", "Work the desk."), Message("user", "Go.")]
    (role, content, _), user, opening = blocks(chat, chat.start(messages, [SPEC]))
    assert role == "system"
    assert content.splitlines() == [
        "Work the desk.",
        "Tools:",
        "find_order(customer, most?: integer, kind: a|b)",
        'Call: <tool_call>{"name": tool, "arguments": {...}}</tool_call>',
    ]
    assert (user[:2], opening[:2]) == (("user", "Go."), ("assistant", ""))

    schema = HermesFormat(chat.tokenizer, tool_style="schema")
    (_, content, _), *rest = blocks(schema, schema.start(messages, [SPEC]))
    assert content.startswith("Work the desk.\n\n# Tools\n\n")
    listed = content.split("<tools>\n")[1].split("\n</tools>")[0]
    assert json.loads(listed) == SPEC.openai()
    assert content.endswith('<tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>')
    assert [r[:2] for r in rest] == [("user", "Go."), ("assistant", "")]
    bare = schema.start(messages, ())
    assert bare == rendered(schema, messages, opening=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.text(max_size=20), calls=st.lists(st.tuples(st.text(min_size=1), ARGUMENTS), max_size=3))
def test_parse_reads_what_answer_writes(
    chat: HermesFormat, content: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    action = Action(content, tuple(ToolCall(name, arguments) for name, arguments in calls))
    again = chat.parse(chat.answer(action))
    assert again.content == content.strip()
    assert [(c.name, c.arguments, c.error) for c in again.tool_calls] == [(n, a, "") for n, a in calls]


@pytest.mark.parametrize("text", ["</tool_call>", "<tool_call>", "<|im_end|>", "\\u003ctool_call>", "<think>", '"}}'])
def test_arguments_that_spell_marks_come_back(chat: HermesFormat, text: str) -> None:
    action = Action.call("say", word=text, **{text: [text]})
    (call,) = chat.parse(chat.answer(action)).tool_calls
    assert call.arguments == {"word": text, text: [text]}


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("Done.", "Done.", []),
        ('<tool_call>{"name": "f", "arguments": {', "", [("", None, '{"name": "f", "arguments": {')]),
        ('<tool_call>\n{"name": "f"}\n', "", [("f", None, '\n{"name": "f"}\n')]),  # good JSON, but not closed
        ("<tool_call>{name: f}</tool_call>", "", [("", None, "{name: f}")]),
        ("<tool_call></tool_call>", "", [("", None, "")]),
        ('<tool_call>[{"name": "f"}]</tool_call>', "", [("", None, '[{"name": "f"}]')]),
        ('<tool_call>{"name": "f", "arguments": 3}</tool_call>', "", [("f", None, '{"name": "f", "arguments": 3}')]),
        (
            '<tool_call> {"name": "f"}</tool_call>\n<tool_call>{"name": "g", "arguments": {"a": 1}} </tool_call>',
            "",
            [("f", {}, ' {"name": "f"}'), ("g", {"a": 1}, '{"name": "g", "arguments": {"a": 1}} ')],
        ),
        (
            'I look. <tool_call>{"name": "f"}</tool_call> Then <tool_call>{"na',
            "I look.  Then",
            [("f", {}, '{"name": "f"}'), ("", None, '{"na')],
        ),
    ],
)
def test_whatever_was_sampled_stays_verbatim(
    chat: HermesFormat, text: str, content: str, calls: list[tuple[str, Any, str]]
) -> None:
    ids = [*chat.tokenizer(text, add_special_tokens=False)["input_ids"], END]
    action = chat.parse(ids)
    assert action.content == content
    assert [(c.name, c.arguments, c.raw) for c in action.tool_calls] == calls
    assert all(bool(c.error) == (c.arguments is None) for c in action.tool_calls)
    assert chat.parse(ids[:-1]) == action  # the stop token is no text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_untrusted_text_adds_no_token_of_its_own(chat: HermesFormat, data: st.DataObject) -> None:
    """Whatever a result, instruction, argument or description says, the ids of added tokens do not change."""
    added = chat.tokenizer.get_added_vocab()
    spelt = st.sampled_from(sorted(added)).flatmap(
        lambda token: st.sampled_from([token, token[:-1] + token, f"<{token}", token * 2, f" {token}\n{token}"])
    )
    text = data.draw(st.lists(spelt | st.text(max_size=5), min_size=1, max_size=5).map("".join))

    def count(said: str) -> tuple[list[int], list[int]]:
        spec = ToolSpec("f", said, {"type": "object", "properties": {said: {"enum": [said]}}, "required": []})
        out: list[int] = []
        for style in ("schema", "signature"):
            form = HermesFormat(chat.tokenizer, tool_style=style)
            out += form.start([Message("system", said), Message("user", said)], [spec])
            out += form.answer(Action("", (ToolCall("f", {"x": said, said: 1}),)))
            out += form.answer(Action("", (ToolCall("f", None, raw=said),)))
            out += form.continuation([Message("tool", said, name=said)])
        return [id for id in out if id in added.values()], out

    assert count(text)[0] == count("plain")[0]
    decoded = chat.tokenizer.decode(chat.continuation([Message("tool", text)]))
    assert decoded == f"\n<|im_start|>tool\n{text}<|im_end|>\n<|im_start|>assistant\n"  # cut apart, nothing lost


def test_a_tokenizer_without_chatml_is_refused(chat: HermesFormat) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")))
    with pytest.raises(ConfigError, match="ChatML"):
        HermesFormat(other)


# --- engine ------------------------------------------------------------------------------------------------------


class Babble(HermesFormat):
    """Reads a call out of whatever was sampled, so that a model that knows nothing plays long and varied episodes."""

    def __init__(self, tokenizer: Any, env: str) -> None:
        super().__init__(tokenizer, tool_style="signature")
        self.stop_ids = (self.end_id, *range(100, 130))  # a turn of about eight tokens; some are cut
        self.specs = make(env).toolbox.specs

    def parse(self, ids: Sequence[int]) -> Action:
        rng = np.random.default_rng(list(ids))
        if (u := rng.random()) < 0.05:
            return Action("Done.")
        if u < 0.2:
            return Action("", (ToolCall("", None, "{", error="not JSON"),))
        spec = self.specs[int(rng.integers(len(self.specs)))]
        return Action.call(spec.name, **sample_json(spec.parameters, rng))


@pytest.fixture(scope="module")
def loud(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights eight times as large: what it attends to decides what it says."""
    folder = tmp_path_factory.mktemp("loud")
    model = load_model(family)
    with torch.no_grad(), quiet():
        for p in model.parameters():
            if p.dim() == 2:
                p.mul_(8)
        model.save_pretrained(folder)
        load_tokenizer(family).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(loud: Path) -> Any:
    """A freshly loaded model that no code of ours has touched."""
    with quiet():
        return AutoModelForCausalLM.from_pretrained(loud, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture
def engine(loud: Path) -> TransformersEngine:
    return TransformersEngine(load_model(loud), parallel=3)


@torch.no_grad()
def recomputed(plain: Any, ids: Sequence[int], temperature: float = 1.0) -> list[float]:
    """Log-probability of each id after those before it; 0 for the first."""
    logps = torch.log_softmax(plain(torch.tensor([list(ids)]), use_cache=False).logits[0].float() / temperature, -1)
    return [0.0, *logps[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()]


def assert_exact(plain: Any, trajectory: Trajectory) -> None:
    tokens = trajectory.tokens
    assert tokens is not None
    expected = recomputed(plain, tokens.ids, trajectory.temperature or 1.0)
    for sampled, got, wanted in zip(tokens.sampled, tokens.logprobs, expected, strict=True):
        assert got == (pytest.approx(wanted, abs=TOLERANCE) if sampled else 0.0)
    where = [t for turn in trajectory.turns for t in range(*span_of(turn))]
    assert where == [t for t, s in enumerate(tokens.sampled) if s]


def babbling(engine: TransformersEngine, folder: Path, env: str, **options: Any) -> LLMAgent:
    options = {"max_turn_tokens": 12, "parallel": engine.parallel} | options
    return LLMAgent(engine, Babble(load_tokenizer(folder), env), **options)


def own_tokens(trajectory: Trajectory) -> Tokens:
    """Of an episode that a model sampled."""
    assert trajectory.tokens is not None
    return trajectory.tokens


def span_of(turn: Turn) -> tuple[int, int]:
    """Of a turn that a model sampled."""
    assert turn.span is not None
    return turn.span


def episodes_of(env: str, n: int, faults: str = "", seed: int = 0) -> list[EpisodeSpec]:
    plan = FaultPlan.parse(faults) if faults else FaultPlan()
    return [EpisodeSpec(task, plan, seed_of(seed, task.id)) for task in task_set(make(env), "train", n, seed=seed)]


def test_rollouts_are_token_exact(engine: TransformersEngine, loud: Path, plain: Any, repository: Path) -> None:
    """Three rows and more episodes than rows: rows are refilled, prefixes copied, observations prefilled. One engine
    for all three environments: nothing of an earlier rollout may leak into a later one."""
    library = f"{repository}/examples/library.py:Library"
    turns = cut = 0
    for env, n, faults in [("orders", 5, "count=2"), (library, 7, ""), ("calendar", 4, "unavailable:0.4@3")]:
        agent = babbling(engine, loud, env)
        played = rollout(env, agent, episodes_of(env, n, faults))
        assert len(played) == n
        for trajectory in played:
            assert_exact(plain, trajectory)
            last = [own_tokens(trajectory).ids[span_of(turn)[1] - 1] for turn in trajectory.turns]
            turns += len(last)
            cut += sum(id not in agent.chat.stop_ids for id in last)
    assert turns > 40
    assert cut > 10
    # The check can fail: another first token moves the last log-probabilities by far more than the tolerance.
    ids = list(own_tokens(played[0]).ids)
    moved = recomputed(plain, [ids[0] + 5, *ids[1:]])
    assert max(abs(a - b) for a, b in zip(moved[-10:], recomputed(plain, ids)[-10:], strict=True)) > 100 * TOLERANCE


def test_ids_decode_to_the_messages(engine: TransformersEngine, loud: Path) -> None:
    """The record's ids, taken apart by control ids, say what the record's messages say."""
    chat = HermesFormat(load_tokenizer(loud), tool_style="signature")
    chat.stop_ids = (END,)
    env = "orders"
    lines = [
        chat.answer(Action.call("find_order", customer="<|im_end|>", item="<tool_call>")),
        chat.tokenizer('Hm. <tool_call>{"name": "wait"', add_special_tokens=False)["input_ids"],  # cut
        [*chat.tokenizer("<tool_call>\n{}\n</tool_call>", add_special_tokens=False)["input_ids"], END],
        chat.answer(Action("Both.", (ToolCall("wait", {}), ToolCall("nosuch", {"a": 1})))),
        chat.answer(Action("Done.")),
    ]
    agent = LLMAgent(Puppet(lambda session, turn: lines[turn]), chat)
    (t,) = rollout(env, agent, episodes_of(env, 1, "count=1:unavailable"))
    assert [r.outcome for r in t.results()].count(Outcome.MALFORMED) == 2
    assert t.tokens is not None
    assert t.stop is StopReason.FINISHED
    found = blocks(chat, own_tokens(t).ids)
    messages = t.messages()
    assert [role for role, *_ in found] == [m.role for m in messages]
    for (role, content, body), message in zip(found, messages, strict=True):
        if role == "assistant":
            head = chat.tokenizer("assistant\n", add_special_tokens=False)["input_ids"]
            said = chat.parse(body[len(head) :])
            assert said.content == message.content
            assert [(c.name, c.arguments, c.raw) for c in said.tool_calls] == [
                (c.name, c.arguments, c.raw) for c in message.tool_calls
            ]
        elif role == "system":
            assert content.startswith(message.content + "\nTools:\n")
        else:
            assert content == message.content
    assert tokens_of(chat, t) == (t.tokens, tuple(turn.span for turn in t.turns))


async def _all(engine: TransformersEngine, asked: list[tuple[str, list[int], int]], sampling: Sampling) -> list[Any]:
    return list(await asyncio.gather(*(engine.generate(name, ids, sampling, seed) for name, ids, seed in asked)))


def made_up(n: int, seed: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(3, 250, n)]


def test_nothing_is_computed_twice(engine: TransformersEngine) -> None:
    """100 tokens in common, then 20 and 30 of one's own, and one prompt that came before: 120 + 30 + 1 (the last one,
    whose logits are wanted). A second turn costs the last sampled token and what is new."""
    shared, a, b = made_up(100, 0), made_up(20, 1), made_up(30, 2)
    sampling = Sampling(max_tokens=5)

    async def play() -> None:
        asked = [("a", shared + a, 1), ("b", shared + b, 2), ("c", shared + a, 3)]
        first = await _all(engine, asked, sampling)
        assert engine.stats.prefilled == 120 + 30 + 1
        assert engine.stats.sampled == 15
        more = made_up(7, 3)
        again = [(name, [*ids, *got.ids, *more], 5) for (name, ids, _), got in zip(asked, first, strict=True)]
        await _all(engine, again, sampling)
        assert engine.stats.prefilled == 151 + 3 * (1 + 7)
        for name, *_ in asked:
            engine.release(name)
        await _all(engine, [("d", again[1][1], 0)], sampling)  # what a released row holds is there for others
        assert engine.stats.prefilled == 175 + 1

    asyncio.run(play())


def test_a_rollout_prefills_about_its_distinct_tokens(engine: TransformersEngine, loud: Path) -> None:
    env = "orders"
    tasks = episodes_of(env, 3)
    group = [EpisodeSpec(e.task, e.plan, seed_of(member, e.task.id)) for e in tasks for member in range(3)]
    played = rollout(env, babbling(engine, loud, env), group)
    seen: set[tuple[int, ...]] = set()
    observed = 0
    for t in played:
        first = span_of(t.turns[0])[0]
        seen.update(own_tokens(t).ids[:n] for n in range(1, first + 1))
        observed += sum(not s for s in own_tokens(t).sampled[first:])
    turns = sum(len(t.turns) for t in played)
    last_sampled = turns - len(played)  # computed with the observation that follows
    assert engine.stats.prefilled >= len(seen) + observed
    assert engine.stats.prefilled <= 1.2 * (len(seen) + observed + last_sampled)
    prompts = engine.stats.prefilled - observed - last_sampled
    assert prompts < 0.3 * sum(span_of(t.turns[0])[0] for t in played)  # the system prompt once, not nine times
    assert engine.stats.sampled == sum(sum(own_tokens(t).sampled) for t in played)


def test_sampling_does_not_depend_on_the_rest_of_the_batch(loud: Path) -> None:
    env = "orders"
    episodes = episodes_of(env, 6, "count=1")
    together = rollout(env, babbling(TransformersEngine(load_model(loud), parallel=4), loud, env), episodes)
    for i in (0, 5):
        (alone,) = rollout(env, babbling(TransformersEngine(load_model(loud), parallel=1), loud, env), [episodes[i]])
        assert own_tokens(alone).ids == own_tokens(together[i]).ids
        assert own_tokens(alone).logprobs == pytest.approx(own_tokens(together[i]).logprobs, abs=TOLERANCE)
        assert alone.messages() == together[i].messages()


def test_the_same_rollout_twice_is_the_same_to_the_last_bit(loud: Path) -> None:
    env = "orders"
    condition = Condition("one fault", env, "count=1", n=5, split="validation", seed=7)
    assert condition.episodes() == condition.episodes()
    engine = TransformersEngine(load_model(loud), parallel=3)
    first = evaluate(babbling(engine, loud, env), [condition])[condition.name]
    again = evaluate(babbling(engine, loud, env), [condition])[condition.name]  # its cache holds the first one's tokens
    anew = evaluate(babbling(TransformersEngine(load_model(loud), parallel=3), loud, env), [condition])[condition.name]
    assert first == again == anew
    harder = Condition("one fault", env, "count=1", n=5, seed=8)
    other = evaluate(babbling(engine, loud, env), [harder])[harder.name]
    assert {own_tokens(t).ids for t in other}.isdisjoint(own_tokens(t).ids for t in first)


def test_greedy_equals_hugging_face(engine: TransformersEngine, plain: Any) -> None:
    prompt = made_up(40, 4)
    (got,) = asyncio.run(_all(engine, [("s", prompt, 0)], Sampling(0.0, 24, (END,))))
    ids = torch.tensor([prompt])
    settings = {"do_sample": False, "max_new_tokens": 24, "eos_token_id": END, "pad_token_id": 0}
    expected = plain.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, 40:].tolist()
    assert list(got.ids) == expected
    assert got.logprobs == pytest.approx(recomputed(plain, prompt + expected)[40:], abs=TOLERANCE)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_logprobs_are_those_that_were_drawn_from(engine: TransformersEngine, plain: Any, temperature: float) -> None:
    """At the sampling temperature, and at 1 where nothing is drawn."""
    prompt = made_up(30, 5)
    (drawn,) = asyncio.run(_all(engine, [("s", prompt, 1)], Sampling(temperature, 20)))
    expected = recomputed(plain, prompt + list(drawn.ids), temperature)[30:]
    assert drawn.logprobs == pytest.approx(expected, abs=TOLERANCE)
    (greedy,) = asyncio.run(_all(engine, [("s", prompt, 1)], Sampling(0.0, 20)))
    assert greedy.logprobs == pytest.approx(recomputed(plain, prompt + list(greedy.ids))[30:], abs=TOLERANCE)


def test_a_higher_temperature_draws_what_is_less_likely(engine: TransformersEngine, plain: Any) -> None:
    prompt = made_up(30, 5)
    (cold,) = asyncio.run(_all(engine, [("s", prompt, 1)], Sampling(0.3, 20)))
    (hot,) = asyncio.run(_all(engine, [("s", prompt, 1)], Sampling(3.0, 20)))
    likely = [sum(recomputed(plain, prompt + list(drawn.ids))[30:]) for drawn in (cold, hot)]
    assert likely[0] > likely[1]
    assert not hot.stopped
    assert len(hot.ids) == 20


def test_new_weights_forget_the_cache(engine: TransformersEngine, family: Path, loud: Path, plain: Any) -> None:
    quieter = load_model(family)
    prompt = made_up(30, 6)

    async def play() -> tuple[Generated, Generated]:
        (before,) = await _all(engine, [("s", prompt, 1)], Sampling(max_tokens=8))
        engine.load(quieter.state_dict().items())
        assert engine.version == 1
        prefilled = engine.stats.prefilled
        (after,) = await _all(engine, [("s", prompt, 1)], Sampling(max_tokens=8))
        assert engine.stats.prefilled == prefilled + 30
        return before, after

    before, after = asyncio.run(play())
    assert before.logprobs == pytest.approx(recomputed(plain, prompt + list(before.ids))[30:], abs=TOLERANCE)
    assert after.logprobs == pytest.approx(recomputed(quieter, prompt + list(after.ids))[30:], abs=TOLERANCE)
    with pytest.raises(ConfigError, match="no weight 'nonsense'"):
        engine.load([("nonsense", torch.zeros(1))])

    async def meanwhile() -> None:
        task = asyncio.create_task(engine.generate("s", prompt, Sampling(max_tokens=8), 1))
        await asyncio.sleep(0)
        with pytest.raises(ConfigError, match="while episodes are being generated"):
            engine.load(quieter.state_dict().items())
        await task

    asyncio.run(meanwhile())


def test_a_session_that_takes_another_course(engine: TransformersEngine, plain: Any) -> None:
    """Its second prompt leaves the first one after 20 tokens, and is shorter: the rest is not attended to."""
    first, second = made_up(40, 7), made_up(40, 7)[:20] + made_up(9, 8)

    async def play() -> list[Generated]:
        asked = [("a", first, 1), ("b", first, 2)]
        await _all(engine, asked, Sampling(max_tokens=6))
        return await _all(engine, [("a", second, 1), ("b", [*first[:30], 5], 2)], Sampling(max_tokens=6))

    a, b = asyncio.run(play())
    assert a.logprobs == pytest.approx(recomputed(plain, second + list(a.ids))[29:], abs=TOLERANCE)
    assert b.logprobs == pytest.approx(recomputed(plain, [*first[:30], 5, *b.ids])[31:], abs=TOLERANCE)


def test_draws_follow_from_the_seed_and_the_length_of_the_prompt(engine: TransformersEngine) -> None:
    """With equal chances everywhere the ids show the draws: every turn of an episode has its own."""
    engine.load((name, torch.zeros_like(tensor)) for name, tensor in engine.model.state_dict().items())
    prompts = [(made_up(10, 0), 1), (made_up(10, 1), 1), (made_up(11, 0), 1), (made_up(10, 0), 2)]
    got = [
        asyncio.run(_all(engine, [(f"s{i}", ids, seed)], Sampling(max_tokens=12)))[0].ids
        for i, (ids, seed) in enumerate(prompts)
    ]
    assert got[0] == got[1]
    assert len({got[0], got[2], got[3]}) == 3
    assert got[0][1:] != got[2][:-1]  # nor is one the other, shifted


def test_too_long_a_prompt(engine: TransformersEngine, loud: Path) -> None:
    engine.max_context = 50
    with pytest.raises(ConfigError, match="45 tokens and 6 to sample exceed 50"):
        asyncio.run(engine.generate("s", made_up(45, 0), Sampling(max_tokens=6), 0))
    with pytest.raises(ConfigError, match="empty prompt"):
        asyncio.run(engine.generate("s", [], Sampling(max_tokens=6), 0))
    env = "echo"
    agent = babbling(engine, loud, env, max_context=50)
    (t,) = rollout(env, agent, episodes_of(env, 1))
    assert (t.stop, t.turns, t.success, t.reward) == (StopReason.TOKEN_LIMIT, (), False, 0.0)
    assert t.judged  # the policy's doing: it counts


def test_an_episode_that_outgrows_its_context_ends_with_token_limit(loud: Path, plain: Any) -> None:
    env = "orders"
    engine = TransformersEngine(load_model(loud), parallel=2)
    whole = rollout(env, babbling(engine, loud, env), episodes_of(env, 4))
    longest = max(whole, key=lambda t: len(t.turns))
    room = span_of(longest.turns[2])[0] + 12 - 1  # one token too few for the third turn
    episode = EpisodeSpec(longest.task, seed=longest.seed)
    (short,) = rollout(env, babbling(engine, loud, env, max_context=room), [episode])
    assert (short.stop, len(short.turns), short.success) == (StopReason.TOKEN_LIMIT, 2, False)
    assert (
        own_tokens(short).ids == own_tokens(longest).ids[: span_of(longest.turns[1])[1]]
    )  # no observation that nobody answered
    assert_exact(plain, short)


def test_a_turn_that_was_cut_goes_on_behind_an_inserted_end(engine: TransformersEngine, loud: Path, plain: Any) -> None:
    env = "orders"
    agent = babbling(engine, loud, env, max_turn_tokens=6)
    agent.sampling = Sampling(1.0, 6, (END,))
    played = rollout(env, agent, episodes_of(env, 3))
    cuts = 0
    for t in played:
        assert_exact(plain, t)
        for turn in t.turns[:-1]:
            start, end = span_of(turn)
            if own_tokens(t).ids[end - 1] != END:
                cuts += 1
                assert end - start == 6
                assert (own_tokens(t).ids[end], own_tokens(t).sampled[end]) == (END, 0)
    assert cuts > 5


class Uncallable(HermesFormat):
    def parse(self, ids: Sequence[int]) -> Action:
        return Action("words")


def test_a_last_message_that_was_cut_is_not_finished(engine: TransformersEngine, loud: Path) -> None:
    chat = Uncallable(load_tokenizer(loud), tool_style="signature")
    (cut,) = rollout("echo", LLMAgent(engine, chat, max_turn_tokens=3), episodes_of("echo", 1))
    assert (cut.stop, cut.success) == (StopReason.TOKEN_LIMIT, False)
    chat.stop_ids = (*range(chat.tokenizer.vocab_size + 20),)
    (whole,) = rollout("echo", LLMAgent(engine, chat, max_turn_tokens=3), episodes_of("echo", 1))
    assert whole.stop is StopReason.FINISHED


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    """n evenly spaced numbers u: each token is drawn n p times, rounded up or down. 700 tokens are three blocks."""
    n = 20_000
    logits = 2 * torch.randn(700, generator=torch.Generator().manual_seed(0))
    us = ((np.arange(n) + 0.5) / n).tolist()
    drawn = sample(logits.expand(n, -1), [temperature] * n, us)
    expected = n * torch.softmax(logits.double() / temperature, -1)
    counts = torch.bincount(drawn, minlength=700)
    assert (counts - expected).abs().max() < 1.5
    statistic = ((counts - expected) ** 2 / expected)[expected > 5].sum()
    assert statistic < 30  # far below the ~600 of independent draws: these are stratified


def test_draws_at_the_edges() -> None:
    nearly_one = 1 - 2**-53
    logits = torch.full((4, 513), float("-inf"))
    logits[0, 255] = logits[1, 256] = logits[2, 512] = 0.0  # the last of a block, the first, and one in the padded one
    logits[3, [3, 400]] = torch.tensor([0.0, 0.0])
    for u in (0.0, 0.5 - 1e-9, nearly_one):
        assert sample(logits[:3], [1.0] * 3, [u] * 3).tolist() == [255, 256, 512]
    assert sample(logits[3:].expand(4, -1), [1.0] * 4, [0.0, 0.499, 0.501, nearly_one]).tolist() == [3, 3, 400, 400]
    flat = torch.zeros(2, 513)
    assert sample(flat, [1.0, 1.0], [0.0, nearly_one]).tolist() == [0, 512]
    ranked = torch.arange(513.0).expand(2, -1)
    assert sample(ranked, [0.0, 1e-3], [0.1, 0.1]).tolist() == [512, 512]  # greedy, and as good as greedy
    assert sample(ranked, [0.0, 0.0], [0.1, 0.9]).tolist() == [512, 512]
    mixed = sample(ranked.flip(1), [0.0, 1e9], [0.7, 0.7]).tolist()
    assert mixed == [0, int(0.7 * 513)]  # each row at its own temperature


# --- rollout -----------------------------------------------------------------------------------------------------


class Puppet:
    """An engine that says what it is told."""

    def __init__(self, say: Callable[[str, int], Sequence[int] | Exception], delay: Callable[[str], int] | None = None):
        self.say = say
        self.delay = delay
        self.version = 0
        self.max_context = 1 << 20
        self.turns: dict[str, int] = {}
        self.released: list[str] = []

    async def generate(self, session: str, prompt: list[int], sampling: Sampling, seed: int) -> Generated:
        for _ in range(self.delay(session) if self.delay else 0):
            await asyncio.sleep(0)
        turn = self.turns.get(session, 0)
        self.turns[session] = turn + 1
        said = self.say(session, turn)
        if isinstance(said, Exception):
            raise said
        return Generated(tuple(said), (-1.0,) * len(said), said[-1] in sampling.stop_ids)

    def release(self, session: str) -> None:
        self.released.append(session)


@pytest.fixture(scope="module")
def qwen(tiny_qwen3: Path) -> HermesFormat:
    return HermesFormat(load_tokenizer(tiny_qwen3), tool_style="signature")


def test_results_stand_in_the_order_asked_for(qwen: HermesFormat) -> None:
    done = qwen.answer(Action("Done."))
    engine = Puppet(lambda session, turn: done, delay=lambda session: 20 - 3 * int(session[1:]))
    ended: list[int] = []
    episodes = episodes_of("orders", 6)
    played = rollout("orders", LLMAgent(engine, qwen, parallel=4), episodes, on_done=lambda i, t: ended.append(i))
    assert [t.task for t in played] == [e.task for e in episodes]
    assert sorted(ended) == list(range(6))
    assert ended != sorted(ended)  # later ones were faster
    assert sorted(engine.released) == [f"s{i}" for i in range(6)]
    assert rollout("orders", LLMAgent(engine, qwen), []) == []


@pytest.mark.parametrize("slack", [0, 3])
def test_an_episode_is_cut_at_the_optimum_plus_slack(qwen: HermesFormat, slack: int) -> None:
    wait = qwen.answer(Action.call("wait"))
    episodes = episodes_of("orders", 4, "count=1")
    for t in rollout("orders", LLMAgent(Puppet(lambda s, turn: wait), qwen), episodes, slack=slack):
        env = make("orders")
        env.start(t.task, FaultPlan.parse(t.faults))
        assert t.expert_turns == expert_turns(env)
        assert t.expert_turns is not None
        assert len(t.turns) == t.expert_turns + slack
        assert (t.stop, t.success, t.reward, t.judged) == (StopReason.TURN_LIMIT, False, 0.0, True)


def test_an_engine_that_fails_is_no_failure_of_the_policy(qwen: HermesFormat) -> None:
    def say(session: str, turn: int) -> Sequence[int] | Exception:
        if session == "s1" and turn == 1:
            return InfrastructureError("the server is gone")
        return qwen.answer(Action("Done.") if turn else Action.call("wait"))

    task = episodes_of("orders", 1)[0]
    played = rollout("orders", LLMAgent(Puppet(say), qwen), [task] * 3)
    failed = played[1]
    assert (failed.stop, failed.success, failed.reward) == (StopReason.INFRASTRUCTURE, None, 0.0)
    assert failed.reward_parts == {}
    assert failed.error == "the server is gone"
    assert len(failed.turns) == 1  # what was played is kept
    assert sum(own_tokens(failed).sampled) == len(qwen.answer(Action.call("wait")))
    assert not failed.judged
    (group,) = TrajectoryGroup.by_task(played)
    assert group.trajectories == (played[0], played[2])
    assert [t.success for t in group.trajectories] == [False, False]


class Broken(Echo):
    where = ""

    def setup(self, task: Task, rng: Any) -> None:
        super().setup(task, rng)
        if self.where == "setup":
            raise KeyError("a bug")

    def success(self, task: Task) -> bool:
        if self.where == "success":
            raise ZeroDivisionError("a bug")
        return super().success(task)


@pytest.mark.parametrize(("where", "kind"), [("setup", KeyError), ("success", ZeroDivisionError)])
def test_a_bug_of_the_environment_keeps_its_name(qwen: HermesFormat, where: str, kind: type[Exception]) -> None:
    broken = type("Broken", (Broken,), {"where": where, "solve": ToolEnv.solve})  # no expert: it would raise first
    agent = LLMAgent(Puppet(lambda s, turn: qwen.answer(Action("Done."))), qwen)
    with pytest.warns(RolloutWarning, match="3 of 3 episodes were ended by a bug of the environment"):
        played = rollout(broken, agent, episodes_of("echo", 3))
    assert {t.stop for t in played} == {StopReason.BUG}
    assert all(f"{kind.__name__}: " in (t.error or "") and "a bug" in (t.error or "") for t in played)


def test_a_bug_of_the_engine_raises_as_it_is(engine: TransformersEngine, loud: Path) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("a bug")

    engine._step = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a bug"):
        rollout("echo", babbling(engine, loud, "echo"), episodes_of("echo", 3))
    del engine._step
    assert len(rollout("echo", babbling(engine, loud, "echo"), episodes_of("echo", 3))) == 3  # it works again


def test_an_engine_that_loses_its_server_recovers(engine: TransformersEngine, loud: Path) -> None:
    step, calls = engine._step, []

    def once() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise InfrastructureError("out of memory")
        step()

    engine._step = once  # type: ignore[method-assign]
    played = rollout("orders", babbling(engine, loud, "orders"), episodes_of("orders", 5))
    lost = [t for t in played if t.stop is StopReason.INFRASTRUCTURE]
    assert 1 <= len(lost) <= 3  # those that were live
    assert all(t.success is None and t.error == "out of memory" for t in lost)
    assert all(t.judged for t in played if t not in lost)


# --- scripts -----------------------------------------------------------------------------------------------------


def success(name: str, faults: str, n: int = 40) -> float:
    played = rollout("orders", scripted(name), episodes_of("orders", n, faults))
    assert all(t.judged and t.tokens is None for t in played)
    return sum(bool(t.success) for t in played) / n


@pytest.mark.parametrize("faults", ["", "count=1", "count=2", "count=1:impossible"])
def test_the_oracle_solves_everything_and_nothing_solves_nothing(faults: str) -> None:
    assert success("expert", faults) == 1.0
    if "impossible" not in faults:
        assert success("do-nothing", faults) == 0.0
    assert success("random", faults, 10) <= 0.1


def test_simple_strategies_lose_under_faults() -> None:
    assert success("blind-retry", "") == success("give-up", "") == 1.0
    blind, give_up = success("blind-retry", "count=1"), success("give-up", "count=1")
    assert give_up <= 0.2 < 0.3 < blind < 0.9  # retrying fixes what passes by itself, and no more
    assert success("blind-retry", "count=1:timeout_landed") < 0.2  # it pays twice
    assert success("give-up", "count=1:impossible") == 1.0
    assert success("do-nothing", "count=1:impossible") == 0.0


def test_unknown_scripts_are_named() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'expert'"):
        scripted("exprt")


# --- replay and corrections --------------------------------------------------------------------------------------


def refund_task() -> Task:
    """A task of two calls whose goal is a refund, found by order."""
    tasks = task_set(make("orders"), "train", 300, levels=[1])
    return next(
        t for t in tasks if [g["kind"] for g in t.data["goals"]] == ["refund"] and not t.data["goals"][0]["by_email"]
    )


def script(*steps: Callable[[Orders], Action]) -> ScriptedAgent:
    def play(env: ToolEnv, seed: int) -> Any:
        for step in steps:
            yield step(env)  # type: ignore[arg-type]

    return ScriptedAgent("made-up", play)


def find(env: Orders) -> Action:
    (goal,) = env.episode.task.data["goals"]
    return Action.call("find_order", customer=goal["name"], item=goal["item"])


def refund_other(env: Orders) -> Action:
    """Pays back a shipped order that nobody asked about."""
    (goal,) = env.episode.task.data["goals"]
    row = env._one(
        "SELECT payment_id FROM payments p JOIN orders o ON o.rowid = p.order_row"
        " WHERE status = 'shipped' AND o.rowid != ?",
        env._row(goal),
    )
    assert row is not None
    return Action.call("refund", payment_id=row["payment_id"])


def refund_unknown(env: Orders) -> Action:
    return Action.call("refund", payment_id="p000")


def misspell(env: Orders) -> Action:
    return Action.call("refund", payment="p1")


def done(env: Orders) -> Action:
    return Action("Done.")


@pytest.mark.parametrize(
    ("steps", "turn"),
    [
        ((find, refund_other, done), 1),  # not to be undone
        ((refund_other, find, done), 0),
        ((find, done), 1),  # gave up early: the last turn
        ((done,), 0),
        ((find, refund_unknown, done), 1),  # the tool itself refused it
        ((find, find, misspell, done), 2),  # the policy's error
    ],
)
def test_the_first_mistake_is_found_and_mended(steps: tuple[Any, ...], turn: int) -> None:
    task = refund_task()
    (failed,) = rollout("orders", script(*steps), [EpisodeSpec(task)])
    assert failed.success is False
    found = first_mistake(make("orders"), failed)
    assert found is not None
    assert found[0] == turn
    ((original, corrected),) = corrections([failed])
    assert original is failed
    assert corrected.success
    assert corrected.forked_from == Fork(failed.id, turn)
    assert corrected.turns[:turn] == failed.turns[:turn]
    assert corrected.turns[turn].action != failed.turns[turn].action
    assert (corrected.task, corrected.faults, corrected.prompt) == (failed.task, failed.faults, failed.prompt)
    assert corrected.id != failed.id
    (pair,) = correction_pairs([(failed, corrected)]).items
    assert pair.fork == turn


def test_a_failure_by_fault_is_no_mistake() -> None:
    """Under `unavailable` the first call fails through no fault of the agent; giving up after it is the mistake."""
    episode = EpisodeSpec(refund_task(), FaultPlan.parse("unavailable:1.0"))
    env = make("orders")
    (failed,) = rollout("orders", script(find, done), [episode])
    assert failed.turns[0].results[0].cause is Cause.INJECTED
    found = first_mistake(env, failed)
    assert found is None or found[0] == 1


def test_corrections_meet_the_same_faults() -> None:
    told = (
        "tool_removed,session_expired,unavailable,stale_id,timeout_landed"  # a silent one is a mistake before its end
    )
    episodes = episodes_of("orders", 30, f"count=1:{told}")
    failed = [t for t in rollout("orders", scripted("give-up"), episodes) if not t.success]
    assert len(failed) > 15
    fixed = corrections(failed)
    assert len(fixed) == len(failed)  # stopping early leaves everything to be fixed
    for original, corrected in fixed:
        assert corrected.faults == original.faults
        assert corrected.faults_hit[: len(original.faults_hit)] == original.faults_hit
        assert corrected.success
        turn = len(original.turns) - 1
        assert corrected.forked_from == Fork(original.id, turn)
        assert corrected.turns[turn].action.tool_calls


def test_what_the_expert_cannot_do_is_not_corrected() -> None:
    class Hopeless(Orders):
        def solve(self, task: Task) -> Any:
            yield "Done."

    (failed,) = rollout(Hopeless, script(find, done), [EpisodeSpec(refund_task())])
    assert first_mistake(Hopeless(), failed) is None


def test_replay_gives_the_states_before_each_turn_and_sees_a_changed_environment() -> None:
    (t,) = rollout("orders", scripted("expert"), [EpisodeSpec(refund_task(), FaultPlan.parse("count=1@4"))])
    env = make("orders")
    snapshots = list(replay(env, t))
    assert len(snapshots) == len(t.turns)
    assert env.judge()[0]
    env.restore(snapshots[-1])
    assert env.episode.tick == len(t.turns) - 1
    env.restore(snapshots[0])
    assert not env.judge()[0]

    class Changed(Orders):
        def _one(self, query: str, *values: Any) -> Any:
            row = super()._one(query, *values)
            return row | {"payment_id": "p999"} if row and "payment_id" in row else row

    with pytest.raises(DataError, match=r"does not replay: turn \d now gives"):
        list(replay(Changed(), t))


def test_a_correction_keeps_the_ids_of_the_episode_that_it_forked_from(qwen: HermesFormat) -> None:
    """The parent sampled its call on one line where the renderer writes three: these very ids stay."""
    task = refund_task()
    (plan,) = rollout("orders", script(find, refund_unknown, done), [EpisodeSpec(task)])
    marked = [qwen.answer(turn.action) for turn in plan.turns]
    one_line = [[id for id in ids if id not in qwen._newline] for ids in marked]
    assert one_line[0] != marked[0]
    (parent,) = rollout("orders", LLMAgent(Puppet(lambda s, turn: one_line[turn]), qwen), [EpisodeSpec(task)])
    assert [t.results for t in parent.turns] == [t.results for t in plan.turns]

    ((_, corrected),) = corrections([Trajectory.from_json(parent.to_json())])
    assert corrected.tokens is None
    assert corrected.forked_from == Fork(parent.id, 1)
    tokens, spans = tokens_of(qwen, corrected, parent)
    start = span_of(parent.turns[1])[0]
    assert tokens.ids[:start] == own_tokens(parent).ids[:start]
    assert tokens.sampled[:start] == own_tokens(parent).sampled[:start]
    assert spans[0] == parent.turns[0].span
    own: list[int] = []
    for i, turn in enumerate(corrected.turns[1:], 1):
        assert spans[i] == (start + len(own), start + len(own) + len(qwen.answer(turn.action)))
        own += qwen.answer(turn.action)
        own += qwen.continuation([Message("tool", r.content) for r in turn.results]) if turn.results else []
    assert list(tokens.ids[start:]) == own
    assert sum(tokens.sampled) == sum(end - begin for begin, end in spans)
    alone, _ = tokens_of(qwen, corrected)
    assert alone.ids[:start] != tokens.ids[:start]  # without the parent it can only be rendered

    assert tokens_of(qwen, parent) == (parent.tokens, tuple(turn.span for turn in parent.turns))
    with pytest.raises(ConfigError, match="no turns"):
        tokens_of(qwen, Trajectory("x", "orders", task, (), (), StopReason.CANCELLED))


def test_a_model_goes_on_from_a_fork_with_the_ids_that_were_sampled(
    engine: TransformersEngine, loud: Path, plain: Any
) -> None:
    agent = babbling(engine, loud, "orders")
    parents = [t for t in rollout("orders", agent, episodes_of("orders", 5, "count=1")) if len(t.turns) > 2]
    assert parents
    forks = [
        EpisodeSpec(t.task, FaultPlan.parse(t.faults), t.seed + 1, list(replay(make("orders"), t))[at], t, at)
        for t in parents
        for at in (0, 2)
    ]
    for episode, forked in zip(forks, rollout("orders", agent, forks), strict=True):
        parent, at = episode.parent, episode.fork
        assert parent is not None
        start = span_of(parent.turns[at])[0]
        assert own_tokens(forked).ids[:start] == own_tokens(parent).ids[:start]
        assert forked.turns[:at] == parent.turns[:at]
        assert len(forked.turns) > at
        assert_exact(plain, forked)


def test_a_model_of_another_format_goes_on_from_what_it_can_read(qwen: HermesFormat, tiny_qwen3: Path) -> None:
    """What others sampled is rendered in its own format, as text that it is given; nobody is trained on its ids."""
    other = HermesFormat(load_tokenizer(tiny_qwen3), tool_style="schema")
    task = refund_task()
    (plan,) = rollout("orders", script(find, refund_unknown, done), [EpisodeSpec(task)])
    lines = [qwen.answer(turn.action) for turn in plan.turns]
    (parent,) = rollout("orders", LLMAgent(Puppet(lambda s, turn: lines[turn]), qwen), [EpisodeSpec(task)])
    snapshot = list(replay(make("orders"), parent))[1]
    agent = LLMAgent(Puppet(lambda s, turn: other.answer(Action("Done."))), other, max_context=100_000)
    (forked,) = rollout("orders", agent, [EpisodeSpec(task, FaultPlan(), 0, snapshot, parent, 1)])
    given = [
        *other.start(parent.prompt, parent.tools),
        *other.answer(plan.turns[0].action),
        *other.continuation(parent.turns[0].observation),
    ]
    assert list(own_tokens(forked).ids) == [*given, *other.answer(Action("Done."))]
    assert own_tokens(forked).sampled == (0,) * len(given) + (1,) * len(other.answer(Action("Done.")))
    assert forked.turns[1].span == (len(given), len(own_tokens(forked)))

    payment = parent.turns[0].results[0].value["payment_id"]
    right = [other.answer(Action.call("refund", payment_id=payment)), other.answer(Action("Done."))]
    wrong = [other.answer(Action("Done."))] * 2
    tried = iter([wrong, right])
    by_session: dict[str, list[list[int]]] = {}
    second = LLMAgent(
        Puppet(lambda s, turn: by_session.setdefault(s, by_session.get(s) or next(tried))[turn]),
        other,
        max_context=100_000,
    )
    ((failed, corrected),) = corrections([parent], second, tries=2)
    assert failed is parent
    assert corrected.success
    assert corrected.tokens is None
    assert [t.span for t in corrected.turns] == [None] * len(corrected.turns)
    assert corrections([parent], LLMAgent(Puppet(lambda s, turn: wrong[turn]), other, max_context=100_000)) == []
