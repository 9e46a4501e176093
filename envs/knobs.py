"""Difficulty knobs: a harder version of any environment, by numbers.

    Hard = harder("orders", distractors=5, traps=2, missing=0.3, impossible=0.2, faults=0.1, turns=12)

Defines `harder` and `Knobs`. An environment needs nothing for it; its facet `knobs`, a `KnobHooks`, may bring what
suits it better: `distractors` and `traps`, tools that are taken before the ready-made ones at the end of this file;
`facts`, what its instructions may lack; `spoil`, a version of a task that cannot be done. All is drawn from the task
alone: turning one knob leaves what the others do as it was.

To add a knob: one field of `Knobs`, and what it does in `_Harder`.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from datetime import date, timedelta
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..tools.definition import Tool, tool
from ..tools.disguise import DrawnDisguise
from ..tools.errors import NotFound
from ..tools.plans import FaultPlan
from ..tools.sets import tools_of
from ..trajectories.errors import ConfigError, EnvError, UnknownName
from ..trajectories.messages import Json, Observation
from ..trajectories.trajectory import Task
from .env import Solution, ToolEnv
from .episode import Verdict
from .facets import Fact, FaultHooks, KnobHooks, User, overridden
from .task import Split

__all__ = ["Knobs", "harder"]

_MARK = "knobs"
"""Where a task's data says what was done to it."""
_TRIED = 20
"""Tasks among which one has to have a fact that can be left out."""


@dataclass(frozen=True, slots=True)
class Knobs:
    """How much harder. The default of each is the environment as it is."""

    distractors: int = 0
    """Tools next to the environment's own that work, read only, and help nothing."""
    traps: int = 0
    """Tools next to them whose effect, once it has taken effect, fails the task."""
    missing: float = 0.0
    """Share of tasks whose instruction lacks a fact. The user tells it in answer to a message with a question mark."""
    impossible: float = 0.0
    """Share of tasks that cannot be done: success is to try, to change nothing wrong, and to end with `Cannot ...`. An
    environment's `spoil` makes them; without one, the fault `impossible` strikes the first call with an effect."""
    faults: str = ""
    """The fault plan of episodes that are started without one: as `FaultPlan.parse` reads it; a number alone is the
    probability that a call is struck, by any kind."""
    turns: int = 0
    """Turns after which an episode is cut; 0: the environment's own limit."""
    disguise: float = 0.0
    """Share of episodes in which the agent sees all under other names: tools, parameters, keys of results, enumerated
    values, forms of ids; in another order, wording and shape. The environment sees the true ones."""
    clutter: float = 0.0
    """Share of episodes in which results hold fields, neighbours and log lines that mean nothing."""

    def __post_init__(self) -> None:
        for name in ("distractors", "traps", "turns"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                raise ConfigError(f"the knob {name} is a whole number from 0, got {getattr(self, name)!r}")
        for name in ("missing", "impossible", "disguise", "clutter"):
            if isinstance(getattr(self, name), bool) or not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"the knob {name} is a share between 0 and 1, got {getattr(self, name)!r}")
        object.__setattr__(self, "faults", str(self.faults))
        _ = self.plan

    @property
    def plan(self) -> FaultPlan:
        try:
            rate = float(self.faults)
        except ValueError:
            return FaultPlan.parse(self.faults)
        if not 0 <= rate <= 1:
            raise ConfigError(f"the knob faults is a plan or a probability between 0 and 1, got {self.faults}")
        kinds = FaultPlan(count=1).kinds
        each = 1 - (1 - rate) ** (1 / len(kinds))  # so that all together come to `rate`
        return FaultPlan(rates=tuple((kind, each) for kind in kinds)) if rate else FaultPlan()

    @classmethod
    def parse(cls, text: str) -> Knobs:
        """Reads `distractors=5&missing=0.3`. Raises `ConfigError` or `UnknownName`."""
        read: dict[str, Any] = {}
        kinds = {field.name: type(field.default) for field in fields(cls) if field.default is not MISSING}
        for part in text.split("&") if text else ():
            name, _, value = part.partition("=")
            if name not in kinds:
                raise UnknownName("knob", name, kinds)
            if name in read:
                raise ConfigError(f"the knob {name} stands twice in {text!r}")
            try:
                read[name] = kinds[name](value)
            except ValueError:
                kind = "whole number" if kinds[name] is int else "number"
                raise ConfigError(f"the knob {name} is a {kind}, got {value!r}") from None
        return cls(**read)

    def __str__(self) -> str:
        turned = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return "&".join(f"{name}={value}" for name, value in turned)


def harder(env: str | type[ToolEnv], **knobs: Any) -> type[ToolEnv]:
    """A class of environments that is `env` with its knobs turned.

    Its environments are named `sparring.envs.knobs:NAME?KNOBS`, e.g. `sparring.envs.knobs:orders?distractors=5`:
    records hold that name, `make` and the command line take it. `register` gives it one of your own. The same arguments
    always give the same class.

    Args:
        env: A name for `make`, or a class. A class has to be registered to be found by its records.
        knobs: The fields of `Knobs`.

    Raises `UnknownName` or `ConfigError` for a wrong knob, `EnvError` where this environment cannot do what one asks.
    """
    names = [field.name for field in fields(Knobs)]
    for name in knobs:
        if name not in names:
            raise UnknownName("knob", name, names)
    return _harder(env, Knobs(**knobs))


def __getattr__(name: str) -> Any:
    """`orders?distractors=5`, asked for by `make("sparring.envs.knobs:orders?distractors=5")`."""
    base, mark, turned = name.partition("?")
    if not mark:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _harder(base, Knobs.parse(turned))


_MADE: dict[tuple[str | type[ToolEnv], Knobs], type[ToolEnv]] = {}


def _harder(env: str | type[ToolEnv], knobs: Knobs) -> type[ToolEnv]:
    if (env, knobs) not in _MADE:
        _MADE[env, knobs] = _made(env, knobs)
    return _MADE[env, knobs]


def _made(env: str | type[ToolEnv], knobs: Knobs) -> type[ToolEnv]:
    from .registry import make

    cls: Any = type(make(env)) if isinstance(env, str) else env
    if issubclass(cls, _Harder):
        raise ConfigError(f"{cls.__name__} has its knobs turned already; turn all of them in one call of harder()")
    own = {t.name for t in tools_of(cls)}
    distractors = _chosen(cls, "distractors", _DISTRACTORS, knobs.distractors, own)
    traps = _chosen(cls, "traps", _TRAPS, knobs.traps, own)
    extra = list({**traps, **distractors}.items())
    body: dict[str, Any] = {
        **dict(extra[::2]),
        "__module__": cls.__module__,
        "__doc__": f"{cls.__doc__ or cls.__name__}\n\n    Knobs turned: {knobs}.\n    ",
        "_knobs": knobs,
        "fault_hooks": _planned(cls.fault_hooks, knobs.plan),
        "_traps": frozenset(traps),
        "sparring_id": f"{__name__}:{env}?{knobs}" if isinstance(env, str) else f"Harder{cls.__name__}",
    }
    if cls.solve is ToolEnv.solve:
        body["solve"] = ToolEnv.solve  # what the environment does not define, its harder version does not
    if knobs.turns:
        body["max_turns"] = knobs.turns
    # Tools are in the order of their classes: half of what is no use comes before what is, half after it.
    before = type("Extra", (ToolEnv,), dict(extra[1::2]))
    made = type(f"Harder{cls.__name__}", (_Harder, cls, before), body)
    if knobs.missing:
        tried = list(islice(cls().tasks("train", random.Random(0)), _TRIED))
        if not any(_facts(made(), task) for task in tried):
            raise EnvError(
                f"the knob missing: no instruction of {cls.__name__} holds a fact of its task's data; give it "
                "knobs = KnobHooks() with facts(self, env, task): Fact(text in the instruction, what is there instead, "
                "the answer)"
            )
    return made


def _planned(hooks: FaultHooks, plan: FaultPlan) -> FaultHooks:
    """The same hooks with another plan."""
    planned = copy.copy(hooks)
    planned.default_plan = plan
    return planned


def _chosen(
    cls: type[ToolEnv], attribute: str, ready: tuple[Callable[..., Any], ...], n: int, own: set[str]
) -> dict[str, Callable[..., Any]]:
    """The first `n` of the environment's and the ready-made tools by name: five are five of the same six."""
    found = {fn.__name__: fn for fn in (*getattr(cls.knobs, attribute), *ready)}
    found = {name: fn for name, fn in found.items() if name not in own and not hasattr(cls, name)}
    if n > len(found):
        raise ConfigError(f"the knob {attribute}: {cls.__name__} can have at most {len(found)}, got {n}")
    return dict(islice(found.items(), n))


class _Harder(ToolEnv):
    """What stands between `ToolEnv` and a class whose knobs are turned."""

    _knobs: ClassVar[Knobs]
    _traps: ClassVar[frozenset[str]]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.user = _Telling(self.user)

    def tasks(self, split: Split, rng: random.Random) -> Iterable[Task]:
        for task in super().tasks(split, rng):
            yield _turned(self, task, self._knobs)

    def start(self, task: Task, plan: FaultPlan | None = None) -> Observation:
        observation = super().start(task, plan if plan is not None and str(plan) else self.fault_hooks.default_plan)
        if _mark(task).get("impossible") == "fault":
            faults = self.episode.faults or FaultPlan().begin(task, self.toolbox.tools, self.toolbox.world)
            faults.pending.insert(0, ("impossible", 0))
            self.toolbox.state.faults = faults
        return observation

    def _disguise(self, task: Task) -> DrawnDisguise | None:
        names, clutter = _share(self._knobs.disguise, "disguise", task), _share(self._knobs.clutter, "clutter", task)
        return DrawnDisguise(f"{task.id}/{task.seed}", names=names, clutter=clutter) if names or clutter else None

    def setup(self, task: Task, rng: random.Random) -> None:
        super().setup(_plain(task), rng)

    def success(self, task: Task) -> bool | Verdict:
        if why := _failed(self, task, self._traps):
            return Verdict(False, why)
        return super().success(_plain(task))

    def solve(self, task: Task) -> Solution | None:
        course = super().solve(_plain(task))
        return None if course is None else _asking(self, task, course)


class _Telling(User):
    """A user who knows what a task's instruction lacks, and tells it when asked; else the environment's own."""

    def __init__(self, own: User) -> None:
        self._own = own
        self.max_answers = own.max_answers

    def reply(self, env: Any, said: str) -> str | None:
        answer: str | None = _mark(env.episode.task).get("tells") if "?" in said else None
        if answer is not None and not _told(env, answer):
            return answer
        own = self._own.reply(env, said)
        return answer if own is None else own  # "" is an answer: tools that come

    def tools(self, env: Any, offered: tuple[Tool, ...]) -> tuple[Tool, ...]:
        return self._own.tools(env, offered)

    def verdict(self, env: Any) -> Verdict | None:
        return self._own.verdict(env)


def _turned(env: ToolEnv, task: Task, knobs: Knobs) -> Task:
    """The task as the knobs make it."""
    if random.Random(f"impossible/{task.id}").random() < knobs.impossible:
        spoilt = env.knobs.spoil(env, task, random.Random(f"spoil/{task.id}"))
        return _marked(spoilt or task, {"impossible": "fault" if spoilt is None else "task"})
    draw = random.Random(f"missing/{task.id}")
    if draw.random() < knobs.missing and (facts := _facts(env, task)):
        fact = draw.choice(facts)
        instruction = task.instruction.replace(fact.text, fact.instead)
        if instruction.startswith(fact.instead):
            instruction = instruction[:1].upper() + instruction[1:]
        return _marked(replace(task, instruction=instruction), {"tells": fact.answer})
    return task


def _share(share: float, what: str, task: Task) -> bool:
    """Whether a task is one of so many."""
    return bool(share) and random.Random(f"{what}/{task.id}").random() < share


def _facts(env: ToolEnv, task: Task) -> list[Fact]:
    """The environment's own; else the texts of the task's data that the instruction holds."""
    if overridden(env.knobs, KnobHooks, "facts"):
        found = env.knobs.facts(env, task)
    else:
        texts = dict.fromkeys(text for text in _texts(task.data) if len(text) > 2)
        found = [Fact(text, "(ask me)", f"It is {text}.") for text in texts]
    return [fact for fact in found if len(re.findall(rf"(?<!\w){re.escape(fact.text)}(?!\w)", task.instruction)) == 1]


def _failed(env: ToolEnv, task: Task, traps: frozenset[str]) -> str:
    """Why this episode is no success whatever the environment says of it, or ""."""
    results = [result for turn in env.episode.history for result in turn.results]
    if sprung := next((r.tool for r in results if r.tool in traps and r.took_effect), None):
        return f"{sprung} was called"
    if _mark(task).get("impossible") != "task":
        return ""
    if not results:
        return "nothing was tried"  # nobody knows that a task is impossible before having looked
    return "" if env.episode.declined else "it did not say that the task cannot be done"


def _asking(env: ToolEnv, task: Task, course: Solution) -> Solution:
    answer = _mark(task).get("tells")
    if answer is not None and not _told(env, answer):
        yield "What is missing in the task?"
    yield from course


def _told(env: ToolEnv, answer: str) -> bool:
    return any(m.content == answer for turn in env.episode.history for m in turn.messages)


def _mark(task: Task) -> dict[str, Json]:
    return task.data.get(_MARK) or {}


def _marked(task: Task, mark: dict[str, Json]) -> Task:
    return replace(task, id="", data={**task.data, _MARK: mark})


def _plain(task: Task) -> Task:
    """The task as the environment knows it."""
    return replace(task, data={k: v for k, v in task.data.items() if k != _MARK}) if _MARK in task.data else task


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, Mapping)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


# ---- ready-made tools that help nothing ------------------------------------------------------------------------------
# Each works, says what it does, and answers the same in every run: what a real desk's tool list is full of.


@tool
def today(self: ToolEnv) -> str:
    """Read today's date."""
    return "2026-01-31"


@tool
def add_days(self: ToolEnv, day: date, days: Annotated[int, Field(ge=-3660, le=3660)]) -> str:
    """Count days from a date."""
    try:
        return (day + timedelta(days)).isoformat()
    except OverflowError:
        raise NotFound(f"there is no day {days} days from {day}") from None


@tool
def multiply(self: ToolEnv, a: float, b: float) -> float:
    """Multiply two numbers."""
    return a * b


@tool
def count_words(self: ToolEnv, text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


@tool
def convert_currency(
    self: ToolEnv, amount: float, source: Literal["EUR", "USD", "GBP"], target: Literal["EUR", "USD", "GBP"]
) -> float:
    """Convert an amount of money."""
    worth = {"EUR": 1.0, "USD": 0.92, "GBP": 1.17}
    return round(amount * worth[source] / worth[target], 2)


@tool
def opening_hours(self: ToolEnv, day: Literal["weekday", "saturday", "sunday"]) -> str:
    """Read when the office is open."""
    return {"weekday": "9 to 17", "saturday": "10 to 14", "sunday": "closed"}[day]


@tool
def search_handbook(self: ToolEnv, query: str) -> list[str]:
    """Search the staff handbook."""
    return [line for line in _HANDBOOK if any(word in line.lower() for word in query.lower().split())]


@tool
def translate_word(self: ToolEnv, word: str, language: Literal["French", "German"]) -> str:
    """Translate an English word."""
    known = {"yes": ("oui", "ja"), "no": ("non", "nein"), "order": ("commande", "Bestellung"), "day": ("jour", "Tag")}
    if word.lower() not in known:
        raise NotFound(f"no translation of {word}")
    return known[word.lower()][language == "German"]


@tool
def weather(self: ToolEnv, city: str) -> str:
    """Read a city's weather."""
    return f"{sum(map(ord, city)) % 25 + 3} degrees"


@tool
def queue_length(self: ToolEnv) -> int:
    """Read how many requests wait."""
    return 4


_HANDBOOK = (
    "Greet by name.", "Orders leave the house at noon.", "Refunds take five days.", "Ask a colleague when in doubt.",
    "Meetings start on time.", "The kitchen closes at six.",
)  # fmt: skip


@tool(effect=True)
def send_email(self: ToolEnv, recipient: str, text: str) -> str:
    """Send an e-mail to anybody."""
    return "sent"


@tool(effect=True)
def delete_record(self: ToolEnv, record: str) -> str:
    """Delete a record for good."""
    return "deleted"


@tool(effect=True)
def publish_notice(self: ToolEnv, text: str) -> str:
    """Publish a notice for all to see."""
    return "published"


@tool(effect=True)
def reset_settings(self: ToolEnv) -> str:
    """Set everything back to how it came."""
    return "reset"


_DISTRACTORS: tuple[Callable[..., Any], ...] = (
    search_handbook, today, convert_currency, opening_hours, count_words, add_days, translate_word, weather,
    queue_length, multiply,
)  # fmt: skip
_TRAPS: tuple[Callable[..., Any], ...] = (send_email, delete_record, publish_notice, reset_settings)
