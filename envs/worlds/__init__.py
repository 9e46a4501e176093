"""Generated worlds: another desk in every task, with tools, words and goals of its own."""

from .env import InventedWorlds, Worlds
from .goals import GOALS, Draft, Goal
from .graph import Change, Person, Place, Record, World
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
    "InventedWorlds",
    "Lexicon",
    "Person",
    "Place",
    "Record",
    "Schema",
    "Template",
    "World",
    "Worlds",
]
