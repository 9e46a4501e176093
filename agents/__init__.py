"""Who acts: language models and scripts, and the rollouts in which they meet an environment. Torch is loaded on use."""

from .agent import Agent, Decision, LLMAgent, Session
from .chat import ChatFormat, HermesFormat
from .engines import Engine, Generated, Sampling
from .rollouts import EpisodeSpec, Limits, rollout, rollout_async, rollout_stream
from .scripts import SCRIPTED, ScriptedAgent, scripted

__all__ = [
    "SCRIPTED",
    "Agent",
    "ChatFormat",
    "Decision",
    "Engine",
    "EpisodeSpec",
    "Generated",
    "HermesFormat",
    "LLMAgent",
    "Limits",
    "Sampling",
    "ScriptedAgent",
    "Session",
    "rollout",
    "rollout_async",
    "rollout_stream",
    "scripted",
]
