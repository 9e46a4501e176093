"""Who acts: language models and scripts, and the rollouts in which they meet an environment. Torch is loaded on use."""

from .agent import Agent, Decision, Session, ToolAgent
from .chat import ChatFormat, HermesFormat
from .engines import Engine, Generated, Sampling
from .rollout import Episode, rollout
from .scripted import SCRIPTED, ScriptedAgent, scripted

__all__ = [
    "SCRIPTED",
    "Agent",
    "ChatFormat",
    "Decision",
    "Engine",
    "Episode",
    "Generated",
    "HermesFormat",
    "Sampling",
    "ScriptedAgent",
    "Session",
    "ToolAgent",
    "rollout",
    "scripted",
]
