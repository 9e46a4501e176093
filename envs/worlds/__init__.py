"""Generated worlds: another desk in every task, with tools, words and goals of its own."""

from .env import InventedWorlds, Worlds
from .goals import GOALS, Draft, Goal
from .graph import Change, Graph, PersonNode, PlaceNode, RecordNode
from .lexicons import LEXICONS, Lexicon
from .schema import Schema, Template
from .templates import TEMPLATES

__all__ = [
    "GOALS",
    "LEXICONS",
    "TEMPLATES",
    "Change",
    "Draft",
    "Goal",
    "Graph",
    "InventedWorlds",
    "Lexicon",
    "PersonNode",
    "PlaceNode",
    "RecordNode",
    "Schema",
    "Template",
    "Worlds",
]
