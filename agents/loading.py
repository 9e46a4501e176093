"""From what a user writes after `--model` to something that acts: the only place that knows how.

    load_agent("tiny-qwen3")                          a known name, a folder or a hub name: the embedded engine
    load_agent("expert")                              a scripted agent
    load_chat_model("fake:Done.")                     an engine by its name, and what it is to load

An engine is one file: in agents/engines, in an installed package (entry point `sparring.engines`), or among yours.
It registers a loader by the name that stands before the colon:

    @ENGINES.register("toy")
    def load(spec, settings, progress):
        return LoadedEngine(ToyEngine(spec.place), ToyTokenizer())     # or a ChatModel, where there are no token ids
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ..trajectories.errors import ConfigError
from ..trajectories.registry import Registry
from .agent import Agent, ChatAgent, LLMAgent
from .chat_format import ChatFormat, Thinking, ToolStyle, format_for, read_format, read_thinking
from .chat_model import ChatModel, EngineChat
from .engine import Engine
from .models import KNOWN_MODELS, TINY_MODELS, Progress
from .scripts import SCRIPTED, scripted

__all__ = [
    "ENGINES",
    "AgentSettings",
    "Loaded",
    "LoadedEngine",
    "Loader",
    "ModelSpec",
    "chat_for",
    "load_agent",
    "load_chat_model",
    "thinking_of",
    "tool_style_of",
]

_SCHEME = re.compile(r"([a-z][a-z0-9+-]+):(.+)", re.DOTALL)
_EMBEDDED, _SCRIPT = "transformers", "script"
_SMALL = 1024
"""Models narrower than this get one line for each tool, wider ones the JSON Schema they were trained on."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Who is meant by a text: `SCHEME:PLACE#MODEL`, or a name, folder or hub name without a scheme."""

    scheme: str
    """The engine's name; "transformers" for the embedded one, "script" for a scripted agent."""
    place: str
    """A folder, a name, a URL: the engine knows."""
    model: str = ""
    """What stands after `#`: which of the models that are served there."""

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """`vllm:http://host:8000#name`, `openai:https://host/v1#name`, `fake:Done.`; a scripted agent's name; all else
        is a known name, a folder or a hub name. A folder with a colon in its name is written `./a:b`.

        Raises `ConfigError` for an empty text.
        """
        if not text.strip():
            raise ConfigError("no model was named: expected a name, a folder, or SCHEME:PLACE")
        if text in SCRIPTED:
            return cls(_SCRIPT, text)
        match = _SCHEME.fullmatch(text)
        if match is None:
            return cls(_EMBEDDED, text)
        scheme, rest = match.groups()
        place, _, model = (rest, "", "") if scheme == _EMBEDDED else rest.partition("#")
        return cls(scheme, place, model)

    @property
    def label(self) -> str:
        """What it is called in tables: the served model, or the end of a folder's path, without `model`."""
        if self.model:
            return self.model
        parts = [p for p in Path(self.place).parts if p not in ("model", ".", "..", "/")]
        return "/".join(parts[-2:]) or self.place


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How a model plays."""

    temperature: float = 1.0
    """Of sampling, from 0; 0 takes the most likely token."""
    max_turn_tokens: int = 64
    """Tokens that the model may say in one turn."""
    max_context: int | None = None
    """Tokens of a whole episode. By default 4096, or what the model takes where that is less; never more."""
    parallel: int = 64
    """Episodes that a model plays at once."""
    tool_style: Literal["auto", "schema", "signature"] = "auto"
    """How tools are shown to the model; auto: as it was trained, else by its size."""
    thinking: Literal["auto", "on", "off"] = "auto"
    """Whether the model may think before it answers; auto: as it was trained here, else on. Off is for models that can
    do both, such as Qwen 3."""
    precision: Literal["auto", "bf16", "fp32"] = "bf16"
    """Of the weights while it plays. bf16: everywhere, as in training; fp32: for exact comparisons; auto: bf16 on a
    GPU, fp32 on a CPU."""
    device: str | None = None
    """cpu, cuda, cuda:1; a GPU where there is one."""


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """What a loader gives back where the model is an engine."""

    engine: Engine
    tokenizer: Any
    """Finds the chat format."""
    source: str = ""
    """Folder or hub name of the model, which may say how it was trained to be shown tools."""


Loaded: TypeAlias = LoadedEngine | ChatModel
Loader: TypeAlias = Callable[[ModelSpec, AgentSettings, Progress | None], Loaded]

ENGINES: Registry[Loader] = Registry("engine", package="sparring.agents.engines", group="sparring.engines")
"""Loaders by the name that stands before the colon."""


def load_agent(
    text: str, settings: AgentSettings | None = None, *, name: str = "", progress: Progress | None = None
) -> Agent:
    """An agent for rollouts and evaluation.

    Args:
        text: As `ModelSpec.parse` reads it.
        settings: Of a model; a scripted agent has none.
        name: As trajectories record it; by default the spec's label.
        progress: Told of what is fetched.

    Raises `UnknownName` for an engine, model or agent that does not exist, `ConfigError` for settings that the model
    cannot meet, `MissingExtra` and `InfrastructureError` as the engine does.
    """
    spec, settings = ModelSpec.parse(text), settings or AgentSettings()
    if spec.scheme == _SCRIPT:
        agent = scripted(spec.place)
        agent.name = name or agent.name
        return agent
    loaded = ENGINES.get(spec.scheme)(spec, settings, progress)
    if isinstance(loaded, LoadedEngine):
        return LLMAgent(
            loaded.engine,
            chat_for(loaded.tokenizer, loaded.source, settings.tool_style, settings.thinking),
            name=name or spec.label,
            temperature=settings.temperature,
            max_turn_tokens=settings.max_turn_tokens,
            max_context=settings.max_context,
            parallel=settings.parallel,
        )
    return ChatAgent(
        loaded,
        name=name or spec.label,
        temperature=settings.temperature,
        max_turn_tokens=settings.max_turn_tokens,
        parallel=settings.parallel,
    )


def load_chat_model(text: str, settings: AgentSettings | None = None, *, progress: Progress | None = None) -> ChatModel:
    """A model that answers messages, for judges and users. Raises as `load_agent`, and `ConfigError` for a script.

    Of the settings, temperature and length of a turn are not used: who asks names them with each question.
    """
    spec, settings = ModelSpec.parse(text), settings or AgentSettings()
    if spec.scheme == _SCRIPT:
        raise ConfigError(f"{text} is a scripted agent, which answers no messages: name a model")
    loaded = ENGINES.get(spec.scheme)(spec, settings, progress)
    if isinstance(loaded, LoadedEngine):
        chat = chat_for(loaded.tokenizer, loaded.source, settings.tool_style, settings.thinking)
        return EngineChat(loaded.engine, chat, max_context=settings.max_context)
    return loaded


def chat_for(
    tokenizer: Any,
    source: str | Path,
    tool_style: Literal["auto", "schema", "signature"],
    thinking: Literal["auto", "on", "off"] = "auto",
) -> ChatFormat:
    """The chat format of the model in `source`: the one it was trained in, else its tokenizer's family's.

    Raises `ConfigError` where no family fits, and for thinking that cannot be switched off.
    """
    name, _ = read_format(Path(source).expanduser()) if str(source) else (None, None)
    style, thinks = tool_style_of(source, tool_style), thinking_of(source, thinking)
    return format_for(tokenizer, tool_style=style, name=name, thinking=thinks)


def thinking_of(model: str | Path, chosen: Literal["auto", "on", "off"] = "auto") -> Thinking:
    """Whether `model` (a known name, a folder, a hub name) may think: as chosen, as it was trained here, else on."""
    if chosen != "auto":
        return chosen
    return (read_thinking(Path(model).expanduser()) if str(model) else None) or "on"


def tool_style_of(model: str | Path, chosen: Literal["auto", "schema", "signature"] = "auto") -> ToolStyle:
    """How `model` (a known name, a folder, a hub name) is shown its tools: as chosen, as it was trained, else by its
    width."""
    if chosen != "auto":
        return chosen
    if str(model) in KNOWN_MODELS or str(model) in TINY_MODELS:
        return "signature"
    folder = Path(model).expanduser()
    _, trained = read_format(folder)
    if trained is not None:
        return trained
    try:
        config = json.loads((folder / "config.json").read_bytes())
        width = config.get("text_config", config)["hidden_size"]
        return "signature" if width < _SMALL else "schema"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "schema"
