"""Who acts: language models and scripts, and the rollouts in which they meet an environment. Torch is loaded on use."""

from .agent import Agent, AgentSession, ChatAgent, Decision, LLMAgent
from .chat.hermes import HermesFormat
from .chat_format import FORMATS, ChatFormat, encoding_of, format_for, sampled_tokens, tokens_of
from .chat_model import Answer, ChatModel, ChatSettings, EngineChat
from .engine import Engine, Generated, Sampling, TrainableEngine
from .fakes import FakeChatModel
from .judge import Judge
from .loading import ENGINES, AgentSettings, LoadedEngine, ModelSpec, load_agent, load_chat_model
from .rollouts import EpisodeSpec, Limits, rollout, rollout_async, rollout_stream
from .scripts import SCRIPTED, ScriptedAgent, scripted

__all__ = [
    "ENGINES",
    "FORMATS",
    "SCRIPTED",
    "Agent",
    "AgentSession",
    "AgentSettings",
    "Answer",
    "ChatAgent",
    "ChatFormat",
    "ChatModel",
    "ChatSettings",
    "Decision",
    "Engine",
    "EngineChat",
    "EpisodeSpec",
    "FakeChatModel",
    "Generated",
    "HermesFormat",
    "Judge",
    "LLMAgent",
    "Limits",
    "LoadedEngine",
    "ModelSpec",
    "Sampling",
    "ScriptedAgent",
    "TrainableEngine",
    "encoding_of",
    "format_for",
    "load_agent",
    "load_chat_model",
    "rollout",
    "rollout_async",
    "rollout_stream",
    "sampled_tokens",
    "scripted",
    "tokens_of",
]
