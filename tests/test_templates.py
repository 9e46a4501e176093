"""Formats that render by a tokenizer's own template. Small templates of ours here; the genuine ones with
`make test-formats`, which names the folder that it fetched them into."""

from __future__ import annotations

import os
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sparring import ConfigError, Task, ToolEnv
from sparring.agents import EpisodeSpec, LLMAgent, format_for, rollout
from sparring.agents.chat._textual import TextualFormat, described
from sparring.agents.chat.qwen import QwenFormat
from sparring.agents.chat_format import ChatFormat, encoding_of, read_format, save_tokenizer, write_format
from sparring.agents.engines.fake import FakeEngine
from sparring.agents.loading import chat_for
from sparring.trainers import Policy
from sparring.trajectories import Action, Message, ToolCall, ToolSpec

# ---- small templates -------------------------------------------------------------------------------------------------

QWEN = """\
{% if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}\
<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools><|im_end|>
{% endif %}{% set ns = namespace(last=-1) %}\
{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}{% if m.role == 'tool' %}<|im_start|>user
<tool_response>{{ m.content }}</tool_response><|im_end|>
{% elif m.role != 'system' %}<|im_start|>{{ m.role }}
{% if m.reasoning_content and loop.index0 > ns.last %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""
LLAMA = """\
<|bos|>{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}\
<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>

{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}{{ raise_exception('one call only') }}{% endif %}\
{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}\
{% else %}{{ m.content | trim }}{% endif %}<|eot_id|>{% endfor %}\
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
MISTRAL = """\
<s>{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}{% for m in messages %}\
{% if m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}{{ raise_exception('nine characters') }}{% endif %}\
[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]\
{% elif m.role == 'assistant' %}{{ m.content }}{% if m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}\
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}\
{% if not loop.last %}, {% endif %}{% endfor %}]{% endif %}</s>\
{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}"""

GEMMA3 = """\
<bos>{% set first_user_prefix = messages[0].content + '

' if messages[0].role == 'system' else '' %}\
{% for m in (messages[1:] if messages[0].role == 'system' else messages) %}\
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('by turns') }}{% endif %}\
<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ first_user_prefix if loop.first }}{{ m.content | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
PHI = """\
{# <|system|> <|user|> <|assistant|> #}{% for m in messages %}<|{{ m.role }}|>
{{ m.content }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% else %}<|endoftext|>{% endif %}"""
GEMMA4 = """\
{% macro shown(v) %}{% if v is none %}null{% elif v is string %}<|"|>{{ v }}<|"|>\
{% elif v is boolean %}{{ 'true' if v else 'false' }}\
{% elif v is sequence %}[{% for x in v %}{{ shown(x) }}{% if not loop.last %},{% endif %}{% endfor %}]\
{% else %}{{ v }}{% endif %}{% endmacro %}<bos>{% set ns = namespace(after='', last=-1) %}\
{% for t in tools or [] %}{{ t | tojson }}{% endfor %}\
{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}\
{% for m in messages %}{% if m.role == 'tool' %}<|tool_response>response:{{ m.name }}{value:{{ shown(m.content) }}}\
<tool_response|>{% else %}{% if m.role != 'assistant' or ns.after != 'tool' %}\
<|turn>{{ 'model' if m.role == 'assistant' else m.role }}
{% endif %}{% if m.reasoning_content and loop.index0 > ns.last %}<|channel>thought
{{ m.reasoning_content }}
<channel|>{% endif %}{% for c in m.tool_calls or [] %}<|tool_call>call:{{ c.function.name }}{{ '{' }}\
{% for k, v in c.function.arguments | dictsort %}{{ k }}:{{ shown(v) }}{% if not loop.last %},{% endif %}{% endfor %}}\
<tool_call|>{% endfor %}{{ m.content }}{% if m.tool_calls %}{% if loop.last %}<|tool_response>{% endif %}\
{% else %}<turn|>
{% endif %}{% endif %}{% set ns.after = m.role %}{% endfor %}\
{% if add_generation_prompt and ns.after != 'tool' %}<|turn>model
{% endif %}"""
GPTOSS = """\
<|start|>system<|message|>{{ strftime_now("%Y") }}{{ tools | tojson if tools }}<|end|>\
{% set ns = namespace(called='') %}{% for m in messages %}\
{% if m.role == 'tool' %}<|start|>functions.{{ ns.called }} to=assistant<|channel|>commentary<|message|>\
{{ m.content | tojson }}<|end|>{% elif m.role != 'assistant' %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>\
{% else %}{% if m.thinking and (m.tool_calls or loop.last) %}<|start|>assistant<|channel|>analysis<|message|>\
{{ m.thinking }}<|end|>{% endif %}{% if m.tool_calls %}{% set ns.called = m.tool_calls[0].function.name %}\
<|start|>assistant to=functions.{{ ns.called }}<|channel|>commentary json<|message|>\
{{ m.tool_calls[0].function.arguments | tojson }}<|call|>{% else %}\
<|start|>assistant<|channel|>final<|message|>{{ m.content }}\
{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% endif %}{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|start|>assistant{% endif %}"""

TOKENS = {
    "qwen": ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>"],
    "llama": ["<|bos|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[ARGS]"],
    "gemma3": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    "phi": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"],
    "gemma4": [
        *("<bos>", "<eos>", "<|turn>", "<turn|>", "<|tool_call>", "<tool_call|>", "<|tool_response>"),
        *("<tool_response|>", "<|channel>", "<channel|>", '<|"|>', "<|tool>", "<tool|>", "<|think|>"),
    ],
    "gptoss": [
        *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"),
        "<|endoftext|>",
    ],
}
TEMPLATES = {"qwen": QWEN, "llama": LLAMA, "mistral": MISTRAL, "gemma3": GEMMA3, "phi": PHI, "gemma4": GEMMA4}
TEMPLATES["gptoss"] = GPTOSS
THINKS = ("qwen", "gemma4", "gptoss")
ONE_CALL = ("llama", "gptoss")
"""Their templates show one call in one answer."""
END = {"qwen": "<|im_end|>", "llama": "<|eot_id|>", "mistral": "</s>", "gemma3": "<end_of_turn>", "phi": "<|end|>"}
END |= {"gemma4": "<turn|>", "gptoss": "<|return|>"}
MARK = {"qwen": "<tool_call>", "llama": "<|python_tag|>", "mistral": "[TOOL_CALLS]"}
MARK |= {"gemma4": "<|tool_call>", "gptoss": " to=functions.a<|channel|>commentary<|message|>"}
"""Of a call, where it is a token."""
TOOL = ToolSpec("move", "Move it, naïve 名.", {"type": "object", "properties": {"item": {"type": "string"}}})


@lru_cache
def small(family: str) -> Any:
    """A tokenizer of bytes with the family's tokens and a template of ours."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(t, normalized=False, special=t[1] != "t") for t in TOKENS[family]])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.chat_template = TEMPLATES[family]
    return tokenizer


@lru_cache
def small_format(family: str) -> ChatFormat:
    return format_for(small(family))


def read(family: str, text: str) -> Action:
    return small_format(family).parse(small(family)(text, add_special_tokens=False)["input_ids"])


def conversation(
    seed: int, turns: int, *, parallel: bool, thinking: bool, users: bool, spelt: bool = True
) -> list[Message]:
    """Generated: calls with results that succeed and fail, odd texts, control tokens `spelt` out.

    Args:
        parallel: Up to three calls in one answer.
        users: A user speaks in between.
    """
    rng = random.Random(seed)
    words = [
        "naïve",
        "名前",
        "🙂",
        'a"b',
        "x\\n",
        "<|im_end|>",
        "<|eot_id|>",
        "[TOOL_CALLS]",
        "</s>",
        "{}",
        "two words",
    ]
    words = words if spelt else [word for word in words if not word.endswith((">", "]"))]

    def said() -> str:
        return " ".join(rng.choices(words, k=rng.randint(1, 4)))

    out = [Message("system", f"Work. {said()}"), Message("user", f"Go: {said()}")]
    for turn in range(turns):
        thought = f"Hm {turn}, 名." if thinking else ""
        if users and rng.random() < 0.3:
            out += [Message("assistant", f"Say {said()}.", thinking=thought), Message("user", f"It is {said()}.")]
            continue
        calls = tuple(
            ToolCall("move", {"item": said(), "n": rng.choice([1, 2.5, None, [True]])}, id=f"c{turn}n{n}ab")
            for n in range(rng.randint(1, 3) if parallel else 1)
        )
        results = [rng.choice([f'{{"ok": "{said()}"}}', "Error: timeout", ""]) for _ in calls]
        out.append(Message("assistant", "", calls, thinking=thought))
        out += [Message("tool", r, tool_call_id=c.id, name="move") for r, c in zip(results, calls, strict=True)]
    return [*out, Message("assistant", "Done.", thinking="So." if thinking else "")]


def told(chat: ChatFormat, messages: list[Message]) -> list[int]:
    """Turn by turn, as an episode is."""
    first = next(i for i, m in enumerate(messages) if m.role == "assistant")
    ids = chat.start(messages[:first], [TOOL])
    i = first
    while i < len(messages):
        m = messages[i]
        ids += chat.answer(Action(m.content, m.tool_calls, m.thinking))
        until = next((k for k in range(i + 1, len(messages)) if messages[k].role == "assistant"), len(messages))
        if until < len(messages):
            ids += chat.continuation(messages[i + 1 : until])
        i = until
    if chat.name == "gptoss":  # what a model ends with, its template shows as another end in the past
        added = chat.tokenizer.get_added_vocab()  # type: ignore[attr-defined]  # as all of these have
        ids = [added["<|end|>"] if id == added["<|return|>"] else id for id in ids]
    return ids


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_turn_by_turn_is_the_templates_own_render(family: str, seed: int) -> None:
    """Id by id over ten turns; control tokens that texts spell are text in both."""
    chat = small_format(family)
    assert chat.name == family
    messages = conversation(seed, 10, parallel=family not in ONE_CALL, thinking=False, users=True)
    # The opening stands for the answer that does not come: the last answer is compared by what follows it.
    whole = chat.start([*messages, Message("user", "More?")], [TOOL])
    assert [*told(chat, messages), *chat.continuation([Message("user", "More?")])] == whole
    added = small(family).get_added_vocab()
    end = added[END[family]]
    spelt = [*messages[:1], Message("user", " ".join(added))]
    assert chat.start(spelt, [TOOL]).count(end) == chat.start([*messages[:1], Message("user", "a")], [TOOL]).count(end)


@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_answers_are_read_back(family: str) -> None:
    chat = small_format(family)
    for seed in range(30):
        for m in conversation(seed, 4, parallel=family != "gptoss", thinking=family in THINKS, users=True):
            if m.role == "assistant":
                again = chat.parse(chat.answer(Action(m.content, m.tool_calls, m.thinking)))
                assert [(c.name, c.arguments, c.error) for c in again.tool_calls] == [
                    (c.name, c.arguments, "") for c in m.tool_calls
                ]
                assert (again.content, again.thinking) == (m.content, m.thinking)


@pytest.mark.parametrize(
    ("family", "text", "expected"),
    [
        ("llama", '{"name": "a", "parameters": {"x": "<|python_tag|>"}}<|eot_id|>x', [("a", {"x": "<|python_tag|>"})]),
        ("llama", 'I see.<|python_tag|>{"name": "a", "parameters": {}}; {"name": "b", "parameters": {}}<|eom_id|>',
         [("a", {}), ("b", {})]),
        ("llama", "[a(x=1, y='z'), b()]<|eot_id|>", [("a", {"x": 1, "y": "z"}), ("b", {})]),
        ("llama", '<|python_tag|>search.call(query="q")<|eom_id|>', [("search", {"query": "q"})]),
        ("llama", "[a(1)]", [("a", None)]),
        ("llama", "[a(x=open('f'))]", [("a", None)]),
        ("llama", '{"name": "a", "parameters": {"x', [("", None)]),
        ("llama", '{"name": "a", "parameters": {}} and more', [("a", {}), ("", None)]),
        ("llama", '{"answer": 7}', []),
        ("llama", "print(7)", []),
        ("llama", "[1, 2]", []),
        ("mistral", '[TOOL_CALLS] [{"name": "a", "arguments": {"x": "</s"}, "id": "abcdefghi"}]</s>[TOOL_CALLS]',
         [("a", {"x": "</s"})]),
        ("mistral", '[TOOL_CALLS]a[ARGS]{"x": 1}[TOOL_CALLS]b[ARGS]{}</s>', [("a", {"x": 1}), ("b", {})]),
        ("mistral", '[TOOL_CALLS][{"name": "a", "arguments": {"x', [("", None)]),
        ("mistral", "[TOOL_CALLS]a[ARGS]{", [("a", None)]),
        ("mistral", "[TOOL_CALLS][]", [("", None)]),
        ("mistral", 'He wrote [{"name": "a", "arguments": {}}]', []),
        ("gemma3", '```tool_code\n{"name": "a", "parameters": {"x": "```"}}\n```<end_of_turn>x', [("a", {"x": "```"})]),
        ("gemma3", "I see.\n```tool_code\na(x=1)\n```\n```tool_code\n[b(), c()]\n```",
         [("a", {"x": 1}), ("b", {}), ("c", {})]),
        ("gemma3", '{"name": "a", "parameters": {}}', [("a", {})]),
        ("gemma3", '{"name": "a"}', []),
        ("gemma3", '```tool_code\n{"name": "a", "parameters": {"x', [("", None)]),
        ("gemma3", "```tool_code\nprint(a())\n```", [("print", None)]),
        ("gemma3", "```tool_code\nhm\n```\n```tool_code\na()\n```", [("", None), ("a", {})]),
        ("gemma3", "Done.\n```tool_output\n7\n```\n```tool_code\na()\n```", []),
        ("gemma4", '<|tool_call>call:a{x:<|"|>n<tool_call|>,{"<|"|>,y:[1,null,true],z:{b:-2.5}}<tool_call|><|turn>x',
         [("a", {"x": 'n<tool_call|>,{"', "y": [1, None, True], "z": {"b": -2.5}})]),
        ("gemma4", "I see.<|tool_call>call:a{}<tool_call|><|tool_call>call:b{x:None}<tool_call|>",
         [("a", {}), ("b", {"x": None})]),
        ("gemma4", '<|channel>thought\n<|tool_call>call:a{}<tool_call|><channel|>No.<turn|>', []),
        ("gemma4", "Hm <|tool_call>call:a{}<tool_call|><channel|><|tool_call>call:b{}<tool_call|>", [("b", {})]),
        ("gemma4", '<|tool_call>call:a{x:"y,z:1"}<tool_call|>', [("a", None)]),
        ("gemma4", '<|tool_call>call:a{x:<|"|>y<tool_call|>', [("a", None)]),
        ("gemma4", "<|tool_call>call:a{x:1,x:2}<tool_call|>", [("a", None)]),
        ("gemma4", "<|tool_call>call:a{x:1},parameters:{y:2}<tool_call|>", [("a", None)]),
        ("gemma4", "<|tool_call>call:a{}", [("a", None)]),
        ("gemma4", "<|tool_call>call:a{<|tool_call>call:b{}<tool_call|>", [("a", None), ("b", {})]),
        ("gemma4", "<|tool_call>nothing<tool_call|>", [("", None)]),
        ("gptoss", ' to=functions.a<|channel|>commentary <|constrain|>json<|message|>{"x": "<|end"}<|call|>x',
         [("a", {"x": "<|end"})]),
        ("gptoss", "<|channel|>analysis to=functions.a code<|message|>{}<|call|>", [("a", {})]),
        ("gptoss", "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant to=a<|channel|>x<|message|>{}<|call|>",
         [("a", {})]),
        ("gptoss", ' to=functions.a<|channel|>commentary<|message|>{"x', [("a", None)]),
        ("gptoss", " to=functions.a<|channel|>commentary<|message|>{}", [("a", None)]),
        ("gptoss", " to=functions.a<|channel|>commentary<|message|>{}<|return|>", [("a", None)]),
        ("gptoss", " to=functions.a<|channel|>comm", [("a", None)]),
        ("gptoss", '<|channel|>analysis<|message|>to=functions.a {"x": 1}<|call|>', []),
        ("gptoss", "<|channel|>final<|message|>Done.<|end|><|start|>user to=a<|message|>{}<|call|>", []),
        ("phi", '```tool_code\n{"name": "a", "parameters": {"x": 1}}\n```<|end|>', [("a", {"x": 1})]),
        ("qwen", '<tool_call>{"name": "a", "arguments": {"x', [("", None)]),
        ("qwen", '<think>a <tool_call>{"name": "a"}</tool_call></think>No.', []),
    ],
)  # fmt: skip
def test_what_models_write(family: str, text: str, expected: list[tuple[str, Any]]) -> None:
    action = read(family, text)
    assert [(c.name, c.arguments) for c in action.tool_calls] == expected
    assert all((c.arguments is None) == bool(c.error) for c in action.tool_calls)
    assert all(c.raw for c in action.tool_calls) or "[]" in text


@pytest.mark.parametrize("family", sorted(MARK))
def test_what_only_spells_a_call_is_text(family: str) -> None:
    chat = small_format(family)
    text = f'See {MARK[family]}{{"name": "a", "arguments": {{}}}}'
    ids = [i for letter in text for i in small(family)(letter, add_special_tokens=False)["input_ids"]]
    assert chat.parse(ids) == Action(text)
    assert chat.parse(small(family)(text, add_special_tokens=False)["input_ids"]).tool_calls


@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_no_answer_raises(family: str) -> None:
    rng, size = random.Random(0), len(small(family))
    parts = [
        '{"name": "a"',
        '"parameters": {',
        '"arguments": {',
        "}}",
        "[",
        "]",
        "a(x=1)",
        *TOKENS[family],
        "```tool_code",
        "```",
        '"',
        "\\",
        ";",
    ]
    for _ in range(300):
        read(family, "".join(rng.choices(parts, k=rng.randint(1, 9))))
        small_format(family).parse([rng.randrange(size) for _ in range(20)])


def test_a_malformed_call_is_shown_as_it_was_written() -> None:
    for family in TEMPLATES:
        chat, raw = small_format(family), '{"name": "a", "arguments": {"x'
        history = [Message("user", "Go."), Message("assistant", "", (ToolCall("a", None, raw, error="cut"),))]
        assert raw in small(family).decode(chat.start([*history, Message("user", "Again.")], ()))


def test_thinking_off_is_what_the_template_makes_of_it() -> None:
    off, on = format_for(small("qwen"), thinking="off"), small_format("qwen")
    asked = [Message("user", "Go.")]
    assert small("qwen").decode(off.start(asked, ())).endswith("assistant\n<think>\n\n</think>\n\n")
    assert encoding_of(off) != encoding_of(on)
    with pytest.raises(ConfigError, match="the chat template cannot switch it off"):
        format_for(small("llama"), thinking="off")


def test_which_format_a_model_gets(tmp_path: Path) -> None:
    assert format_for(small("qwen"), tool_style="signature").name == "hermes"  # the compact form is our own
    assert format_for(small("qwen"), name="hermes").name == "hermes"
    assert format_for(small("llama"), tool_style="signature").tool_style == "schema"  # no compact form fits
    write_format(small_format("llama"), tmp_path)
    assert read_format(tmp_path) == ("llama", "schema")
    assert encoding_of(chat_for(small("llama"), tmp_path, "auto")) == encoding_of(small_format("llama"))
    with pytest.raises(ConfigError, match="the model's chat template refuses the conversation: nine characters"):
        small_format("mistral").start([Message("user", "Go."), Message("tool", "ok")], ())


class Talk(ToolEnv):
    """A user who asks twice."""

    system = "Work."

    def tasks(self, split: Any, rng: Any) -> Any:
        yield Task("Is it done?")

    def setup(self, task: Task, rng: Any) -> None:
        self.state = {}

    def success(self, task: Task) -> bool:
        return self.episode.said == "Done."


def test_a_past_that_the_template_would_change_is_named() -> None:
    """The ids of an episode are never changed; where the template drops old thoughts, the chat says so."""
    chat: Any = small_format("qwen")
    asked = [Message("system", "S"), Message("user", "Go.")]
    call = Message("assistant", "", (ToolCall("move", {}, id="c"),), thinking="Hm.")
    result = Message("tool", "ok", tool_call_id="c", name="move")
    assert chat.keeps([*asked, call], [result], [TOOL])
    assert not chat.keeps([*asked, call, result, Message("assistant", "Well?")], [Message("user", "Yes.")], [TOOL])
    assert small_format("llama").keeps([*asked, Message("assistant", "Well?")], [Message("user", "Yes.")], ())  # type: ignore[attr-defined]
    engine = FakeEngine([chat.answer(Action.call("none")), chat.answer(Action("Done."))], max_context=100_000)
    (t,) = rollout(Talk, LLMAgent(engine, chat, max_turn_tokens=500), [EpisodeSpec(Task("Is it done?"))])
    assert t.success
    assert len(t.turns) == 2
    assert "past_kept_before_turns" not in t.meta


# ---- what is saved ---------------------------------------------------------------------------------------------------


def served(folder: Path, messages: list[Message], tools: list[ToolSpec]) -> list[int]:
    """The prompt that another program makes of these messages."""
    return list(
        AutoTokenizer.from_pretrained(folder).apply_chat_template(
            [QwenFormat.message(small_format("qwen"), m) for m in messages],  # type: ignore[arg-type]  # any of them
            tools=[tool.openai() for tool in tools] or None,
            add_generation_prompt=True,
            sanitize_control_tokens=True,
        )["input_ids"]
    )


MANY = ToolSpec(
    "move",
    "Move 'it', naïve 名.",
    {
        "type": "object",
        "properties": {
            "item": {"type": "string", "description": "A <b> & c."},
            "how": {"enum": ["fast", 2, None]},
            "to": {"anyOf": [{"type": "integer"}, {"type": "null"}, {"enum": ["x"]}]},
            "any": {},
            "list": {"type": ["array", "null"]},
        },
        "required": ["item", "how"],
    },
)


@pytest.mark.parametrize("thinking", ["on", "off"])
@pytest.mark.parametrize("style", ["signature", "schema"])
def test_a_saved_model_is_served_as_it_was_trained(
    style: Any, thinking: Any, tiny_qwen3: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    """Our own format, by the chat template of the folder and transformers alone. One model's marks are tokens."""
    for tiny in (tiny_qwen3, tiny_llama) if thinking == "on" else (tiny_qwen3,):
        policy = Policy.load(tiny, tool_style=style, thinking=thinking, precision="fp32")
        assert policy.chat.name == "hermes"
        own = policy.tokenizer.chat_template
        folder = tmp_path / tiny.name
        policy.save(folder)
        assert policy.tokenizer.chat_template == own
        for seed in range(12):
            told = conversation(seed, 4, parallel=True, thinking=seed % 2 == 0, users=True, spelt=False)
            system = Message("system", "Later.")
            for messages in (told, told[1:], [*told, system], [Message("assistant", "Move?", told[2].tool_calls)]):
                for tools in ([MANY, TOOL], []):
                    assert served(folder, messages, tools) == policy.chat.start(messages, tools)
        marked = [Message("assistant", "", (ToolCall("move", {"item": "<tool_call>a</tool_call>"}),))]
        assert served(folder, marked, []) == policy.chat.start(marked, [])
        again = Policy.load(folder, precision="fp32")
        assert encoding_of(again.chat) == encoding_of(policy.chat)


@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_a_template_is_saved_with_what_it_was_given(family: str, tmp_path: Path) -> None:
    """And no more than once, however often a model is saved."""
    for thinking in ("on", "off") if "enable_thinking" in TEMPLATES[family] else ("on",):
        chat: Any = format_for(small(family), thinking=thinking)
        save_tokenizer(chat, chat.tokenizer, tmp_path)
        asked = [Message("system", "S."), Message("user", "Go.")]
        assert served(tmp_path, asked, [TOOL]) == chat.start(asked, [TOOL])
        for seed in range(0 if family in MARK else 4):  # one that shows tools as text
            told = conversation(seed, 3, parallel=True, thinking=False, users=True, spelt=False)
            for messages in (told[:-1], [*told[1:], Message("system", "Later.")], told[2:], told[:1]):
                assert served(tmp_path, messages, [TOOL]) == chat.start(messages, [TOOL])
                assert served(tmp_path, messages, []) == chat.start(messages, [])
        again: Any = format_for(AutoTokenizer.from_pretrained(tmp_path), name=family, thinking=thinking)
        assert again.template() == chat.template()
        if thinking == "off":
            on = format_for(AutoTokenizer.from_pretrained(tmp_path), name=family)
            assert on.start(asked, [TOOL]) == small_format(family).start(asked, [TOOL])


# ---- the genuine ones ------------------------------------------------------------------------------------------------

CACHE = os.environ.get("SPARRING_FORMATS", "")
GENUINE = [
    ("qwen3", "qwen3", "qwen"),
    ("qwen3", "qwen3_instruct_2507", "qwen"),
    ("qwen3", "qwen3_vl", "qwen"),
    ("qwen3", "qwen2_5", "qwen"),
    ("llama3_1", "llama3_1", "llama"),
    ("llama3_1", "llama3_2", "llama"),
    ("gemma3", "gemma3", "gemma3"),
    ("gemma3", "gemma4", "gemma4"),
    ("gemma3", "gemma4_v3", "gemma4"),
    ("gemma3", "gemma4_v4", "gemma4"),
    ("gemma3", "gemma4_v5", "gemma4"),
    ("gptoss", "gptoss", "gptoss"),
    ("llama3_1", "phi3", "phi"),
    ("llama3_1", "phi3_5", "phi"),
]


@lru_cache
def genuine(vocabulary: str, template: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(Path(CACHE) / vocabulary / "models")
    known = tokenizer.get_vocab()
    for family in {"gemma4", "phi"} & {template.partition("_")[0].rstrip("3")}:  # their vocabularies cannot be had
        tokenizer.add_tokens([t for t in TOKENS[family] if t not in known], special_tokens=True)
    tokenizer.chat_template = (Path(CACHE) / "trl" / "chat_templates" / f"{template}.jinja").read_text()
    return tokenizer


@pytest.mark.skipif(not CACHE, reason="make test-formats fetches the genuine templates")
@pytest.mark.parametrize(
    ("vocabulary", "template", "family", "seed"),
    [(*one, seed) for one in GENUINE for seed in range(6 if one[0] == "gemma3" else 30)],  # its vocabulary is slow
)
def test_our_render_is_the_genuine_one(vocabulary: str, template: str, family: str, seed: int) -> None:
    """A start is the template's, id by id; ten turns of an episode are too, except where the template itself changes
    the past, which `keeps` says."""
    tokenizer = genuine(vocabulary, template)
    chat: Any = format_for(tokenizer)
    assert chat.name == family
    thinks = template in ("qwen3", "gemma4_v5")
    messages = conversation(seed, 10, parallel=family not in ONE_CALL, thinking=thinks, users=seed % 2 == 1)
    more = [*messages, Message("user", "More?")] if not thinks else messages[:-1]
    own: Any = [chat.message(m) for m in more]
    textual = isinstance(chat, TextualFormat)
    if textual:
        own = chat.conversation([*more[:1], Message("system", described([TOOL])), *more[1:]])
    theirs = tokenizer.apply_chat_template(
        own,
        tools=None if textual else [TOOL.openai()],
        add_generation_prompt=True,
        sanitize_control_tokens=True,
        chat_template=chat.fixed + tokenizer.chat_template,  # the day of gpt-oss
        **chat.options,
    )["input_ids"]
    assert chat.start(more, [TOOL]) == theirs
    if not thinks:
        assert [*told(chat, messages), *chat.continuation(more[-1:])] == theirs
        return
    last = next(i for i in reversed(range(len(more))) if more[i].role == "assistant")
    ids = [*told(chat, more[: last + 1]), *chat.continuation(more[last + 1 :])]
    followed = [m.role for m in more].count("user") > 1
    assert (ids == theirs) is not followed
    if followed:
        second = [i for i, m in enumerate(more) if m.role == "user"][1]
        assert not chat.keeps(more[:second], more[second : second + 1], [TOOL])
