"""Several rules one after the other, in code or from a file, and the full card of what each did.

    done = curate(episodes, ["successes", {"near_duplicates": {"threshold": 0.8}}, {"pairs": {"by": "reward"}}])
    done.items      # episodes, or pairs
    done.card()     # plain JSON: what came in, each rule with its settings and what it dropped, hashes

Defines `curate`, `Curation`, `AppliedRule`, `Rule`, `RULES`, `PAIRS`, `parse_rule`, `read_rules`.
"""

from __future__ import annotations

import inspect
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

import orjson
from pydantic import TypeAdapter, ValidationError

from ..errors import ConfigError, DataError, UnknownName
from ..labels import read_labels
from ..messages import Json
from ..modules import load_object
from ..trajectory import Task, Trajectory, TrajectoryGroup
from . import demonstrations as d
from . import preferences as p
from . import selection as s
from .card import Card, Curated, digest, not_judged, with_card
from .preferences import Pair

__all__ = ["PAIRS", "RULES", "AppliedRule", "Curation", "Rule", "curate", "parse_rule", "read_rules"]

Written = str | Mapping[str, Mapping[str, Json] | None]
"""A rule as people write it: its name, or its name with its settings."""

Helpers = Mapping[str, Callable[..., Any]]
"""What rules need from outside the trajectories: `corrections(failed)`, with `agent` and `tries` where a rule names
them, gives (failed, corrected) pairs, `judge(name)` a
judge, `tasks(name, envs)` held-out tasks. `sparring curate` brings all three."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of rule."""

    run: Callable[..., Curated[Any]]
    takes: Literal["episodes", "groups"] = "episodes"
    gives: Literal["episodes", "pairs"] = "episodes"


@dataclass(frozen=True, slots=True)
class AppliedRule:
    """One rule as it was run."""

    rule: str
    settings: dict[str, Json]
    card: Card


@dataclass(frozen=True, slots=True)
class Curation:
    """What all rules together kept, and what each of them did."""

    items: tuple[Trajectory, ...] | tuple[Pair, ...]
    applied: tuple[AppliedRule, ...]
    came_in: int
    """Episodes."""
    source: str
    """Hash of what came in, in any order."""
    seed: int
    repeated: int = 0
    """Episodes that were given more than once; only the first of each went in."""
    held_out: int = 0
    """Held-out tasks that the result was compared with."""
    content: str = field(init=False)
    """Hash of what came out, in any order."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", digest(self.items))

    @property
    def unit(self) -> Literal["episodes", "pairs"]:
        return "pairs" if self.items and isinstance(self.items[0], Pair) else "episodes"

    def card(self) -> dict[str, Json]:
        """All of it as plain JSON."""
        sides: list[Trajectory] = []
        for item in self.items:
            sides += (item.chosen, item.rejected) if isinstance(item, Pair) else (item,)
        facets: tuple[s.Facet, ...] = ("env", "family", "level", "agent", "success", "fault", "tool", "outcome")
        holds = {facet: dict(Counter(v for t in sides for v in s._values(t, facet)).most_common()) for facet in facets}
        return {
            "form": "sparring curation 1",
            "came_in": self.came_in,
            "given_twice": self.repeated,
            "kept": len(self.items),
            "unit": self.unit,
            "source": self.source,
            "content": self.content,
            "seed": self.seed,
            "held_out_tasks": self.held_out,
            "rules": [
                {
                    "rule": one.rule,
                    "settings": one.settings,
                    "came_in": one.card.came_in,
                    "kept": one.card.kept,
                    "unit": one.card.unit,
                    "dropped": one.card.dropped,
                }
                for one in self.applied
            ],
            "episodes_by": holds,
        }

    def __str__(self) -> str:
        return "\n".join(f"{one.rule}: {one.card}" for one in self.applied)


def curate(
    trajectories: Iterable[Trajectory],
    rules: Iterable[Written],
    *,
    seed: int = 0,
    held_out: Iterable[Task] = (),
    helpers: Helpers | None = None,
) -> Curation:
    """Runs `rules` one after the other.

    Args:
        rules: Names of `RULES`, or `{name: settings}`. A setting that is a function is one, or "module:function".
            `pairs` takes `by`, one of `PAIRS`, with the settings of that, and comes last.
        seed: For every rule that draws and does not name its own.
        held_out: Tasks that must not be in the result.
        helpers: See `Helpers`.

    Raises `UnknownName` for a rule or a setting, with the nearest known; `ConfigError` for a value that cannot be
    meant; `DataError` where no episode came in, where nothing is left, and where a held-out task is left.
    """
    prepared = [_prepared(written, seed, helpers or {}) for written in rules]
    if not prepared:
        raise ConfigError("no rule was given: name one, such as gold")
    for name, rule, _, _ in prepared[:-1]:
        if rule.gives == "pairs":
            raise ConfigError(f"{name} makes pairs, and other rules take episodes: put it last")
    given = list(trajectories)
    if not given:
        raise DataError("there is no episode to curate")
    held: tuple[Any, ...] = tuple({(t.env, t.id, t.attempt): t for t in reversed(given)}.values())[::-1]
    source, repeated = digest(held), len(given) - len(held)
    applied = []
    for name, rule, settings, shown in prepared:
        done = _run(rule, held, settings)
        if not done.items:
            why = "no task was played twice under the same faults" if rule.takes == "groups" else "nothing came in"
            raise DataError(f"{name} has nothing left: {why}")
        held = done.items
        applied.append(AppliedRule(name, shown, done.card))
    forbidden = list(held_out)
    if forbidden:
        _refuse_leaks(held, forbidden)
    return Curation(held, tuple(applied), len(given), source, seed, repeated, len(forbidden))


def parse_rule(text: str) -> dict[str, dict[str, Json]]:
    """`near_duplicates threshold=0.8` as a rule with its settings; values are text, read by what the setting is."""
    try:
        name, *rest = shlex.split(text) or [""]
        if not name:
            raise ValueError("it names no rule")
    except ValueError as error:
        raise ConfigError(f"a rule looks like 'near_duplicates threshold=0.8', got {text!r}: {error}") from None
    settings: dict[str, Json] = {}
    for part in rest:
        key, mark, value = part.partition("=")
        if not mark or not key:
            raise ConfigError(f"a rule looks like 'near_duplicates threshold=0.8', got {part!r} in {text!r}")
        if key in settings:
            raise ConfigError(f"{key} is there twice in the rule {text!r}")
        settings[key] = value
    return {name: settings}


def read_rules(path: Path) -> tuple[list[Written], int | None]:
    """Rules and seed of a file in YAML or JSON: a list, or an object with `rules` and perhaps `seed`.

    Raises `ConfigError` for another form.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text in UTF-8") from None
    if path.suffix == ".json":
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{path} is not JSON: {error}") from None
    else:
        import yaml

        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    seed: Any = None
    if isinstance(value, dict) and "rules" in value:
        for key in value:
            if key not in ("rules", "seed"):
                raise UnknownName(f"entry in {path.name}", str(key), ("rules", "seed"))
        value, seed = value["rules"], value.get("seed")
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{path}: expected a list of rules, such as '- gold', got {type(value).__name__}")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ConfigError(f"{path}: seed is a whole number, got {seed!r}")
    return value, seed


# --- the rules ---------------------------------------------------------------------------------------------------


def _corrected(
    trajectories: Iterable[Trajectory], corrections: Callable[..., Any], agent: str, tries: int
) -> tuple[list[Any], Counter[str]]:
    held = list(trajectories)
    dropped: Counter[str] = Counter(reason for t in held if (reason := not_judged(t)))
    if succeeded := sum(t.judged and bool(t.success) for t in held):
        dropped["that succeeded"] = succeeded
    failed = [t for t in held if t.judged and not t.success]
    fixed = list(corrections(failed, agent, tries) if agent or tries > 1 else corrections(failed))
    if len(failed) > len(fixed):
        dropped["beyond fixing"] = len(failed) - len(fixed)
    return fixed, dropped


def _correction_pairs(
    trajectories: Iterable[Trajectory], corrections: Callable[..., Any], *, agent: str = "", tries: int = 1
) -> Curated[Pair]:
    """Each failed episode against its correction from the turn where it first went wrong: by the expert, or by an agent
    (a model, or a scripted one) that tries so many times."""
    fixed, dropped = _corrected(trajectories, corrections, agent, tries)
    came_in = len(fixed) + sum(dropped.values())
    if not fixed:
        return with_card("correction_pairs", [], came_in, dropped, unit="episodes")
    done = p.correction_pairs(fixed)
    return with_card("correction_pairs", done.items, came_in, dropped + Counter(done.card.dropped), unit="episodes")


def _corrections(
    trajectories: Iterable[Trajectory],
    corrections: Callable[..., Any],
    *,
    agent: str = "",
    tries: int = 1,
    patience: int = 2,
) -> Curated[Trajectory]:
    """The corrected episodes themselves: what led to the mistake is context, what fixes it is trained."""
    fixed, dropped = _corrected(trajectories, corrections, agent, tries)
    kept = [corrected for _, corrected in fixed]
    return d._then(
        d.weighted, with_card("corrections", kept, len(kept) + sum(dropped.values()), dropped), patience=patience
    )


RULES: dict[str, Rule] = {
    "balanced": Rule(s.balanced),
    "best_of": Rule(d.best_of, "groups"),
    "corrections": Rule(_corrections),
    "coverage": Rule(s.coverage),
    "decontaminated": Rule(s.decontaminated),
    "difficulty": Rule(s.difficulty),
    "distillation": Rule(d.distillation),
    "diverse": Rule(s.diverse),
    "duplicates": Rule(s.duplicates),
    "gold": Rule(d.gold),
    "near_duplicates": Rule(s.near_duplicates),
    "quality": Rule(s.quality),
    "recoveries": Rule(d.recoveries),
    "rejection_sampling": Rule(d.rejection_sampling, "groups"),
    "sample": Rule(s.sample),
    "successes": Rule(d.successes),
    "turn_weights": Rule(d.weighted),
}
"""By name. `pairs` is next to them: which of `PAIRS` it is, its setting `by` says."""

PAIRS: dict[str, Rule] = {
    "correction": Rule(_correction_pairs, "episodes", "pairs"),
    "judge": Rule(p.judged_pairs, "groups", "pairs"),
    "people": Rule(p.people_pairs, "episodes", "pairs"),
    "reward": Rule(p.on_policy_pairs, "groups", "pairs"),
    "score": Rule(p.scored_pairs, "groups", "pairs"),
    "step": Rule(p.step_pairs, "episodes", "pairs"),
    "style": Rule(p.style_pairs, "episodes", "pairs"),
}
"""By the value of `by`."""

_FUNCTIONS = ("judge", "rewrite", "score")

_WANTED = {
    "against": "a file of episodes, or a split such as test",
    "judge": "a model, or module:function",
    "labels": "a file of labels",
    "n": "a number of episodes",
    "rewrite": "module:function",
    "score": "module:function",
    "teacher": "the name of an agent",
}
"""What a setting that has to be given is, in words."""


def _run(rule: Rule, held: tuple[Any, ...], settings: dict[str, Any]) -> Curated[Any]:
    if rule.takes == "episodes":
        return rule.run(held, **settings)
    groups = TrajectoryGroup.by_task(held)
    unjudged = sum(not t.judged for t in held)
    if not unjudged or rule.gives == "pairs":
        return rule.run(groups, **settings)
    done = rule.run(groups, **settings)
    dropped = Counter(done.card.dropped) + Counter({not_judged(t): unjudged for t in held if not t.judged})
    return with_card("it", done.items, len(held), dropped)


def _prepared(written: Written, seed: int, helpers: Helpers) -> tuple[str, Rule, dict[str, Any], dict[str, Json]]:
    """Name, rule, settings as its function takes them, and settings as they are shown."""
    if isinstance(written, str):
        written = {written: None}
    if not isinstance(written, Mapping) or len(written) != 1:
        raise ConfigError(f"a rule is a name, or a name with its settings, got {written!r}")
    ((name, given),) = written.items()
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"the settings of {name} are names with values, got {given!r}")
    if not isinstance(name, str) or name not in {*RULES, "pairs"}:
        raise UnknownName("rule", str(name), [*RULES, "pairs"])
    wanted = dict(given or {})
    if name == "pairs":
        by = str(wanted.pop("by", "reward"))
        if by not in PAIRS:
            raise UnknownName("way to pair (by)", by, PAIRS)
        rule, label = PAIRS[by], f"pairs by {by}"
    else:
        rule, label = RULES[name], name
    hints, needed, known = _settings_of(rule.run)
    offered = [k for k in known if k != "corrections"]
    for key in wanted:
        if key not in offered:
            raise UnknownName(f"setting of {label}", str(key), offered)
    settings = {key: _value(label, key, value, hints[key], seed, helpers) for key, value in wanted.items()}
    if "seed" in known:
        settings.setdefault("seed", seed)
    if "corrections" in known:
        settings["corrections"] = _helper(helpers, "corrections", label)
    if missing := [key for key in needed if key not in settings]:
        raise ConfigError(f"{label} needs {' and '.join(missing)}: {missing[0]}={_WANTED.get(missing[0], '...')}")
    shown = {key: _shown(wanted[key], settings[key]) for key in wanted}
    if "seed" in settings:
        shown["seed"] = settings["seed"]
    return label, rule, settings, shown


@lru_cache(maxsize=64)
def _settings_of(function: Callable[..., Any]) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """(type of each setting, those without a default, all); the first parameter is what the rule works on."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    needed = tuple(one.name for one in parameters if one.default is inspect.Parameter.empty)
    return get_type_hints(function), needed, tuple(one.name for one in parameters)


def _value(label: str, key: str, value: Json, hint: Any, seed: int, helpers: Helpers) -> Any:
    """A setting as its function takes it."""
    if key in _FUNCTIONS:
        if callable(value):
            return value
        if key == "judge" and (":" not in str(value) or "://" in str(value)):  # a model's name, or an endpoint
            return _helper(helpers, "judge", label)(str(value), seed)
        found = load_object(str(value), "function", callable)
        if not callable(found):
            raise ConfigError(f"{label}: {value} is no function")
        return found
    if key == "labels" and isinstance(value, str | Path):
        return [label.record() for label in read_labels(value)]
    if key == "against" and isinstance(value, str):
        return _helper(helpers, "tasks", label)(value)
    if key in ("labels", "against"):
        return value
    listed = isinstance(value, str) and str(hint).startswith(("collections.abc.Sequence", "typing.Sequence"))
    try:
        return TypeAdapter(hint).validate_python(value.split(",") if listed else value)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{label}: {key}={value}: {first['msg'].lower()}") from None


def _helper(helpers: Helpers, name: str, label: str) -> Callable[..., Any]:
    if name not in helpers:
        raise ConfigError(f"{label} needs curate(..., helpers={{{name!r}: function}}): see docs/curation.md")
    return helpers[name]


def _shown(written: Any, read: Any) -> Json:
    """A setting for the card: as it was read where that is plain, else as it was written."""
    for value in (read, written):
        if isinstance(value, str | int | float | bool) or value is None:
            return value
        if isinstance(value, list | tuple) and all(isinstance(one, str | int | float) for one in value):
            return list(value)
    if callable(written):
        return f"{getattr(written, '__module__', '')}:{getattr(written, '__qualname__', type(written).__name__)}"
    return f"{type(written).__name__} given in code"


def _refuse_leaks(held: Sequence[Any], forbidden: Sequence[Task]) -> None:
    why = s.leaked(forbidden, by="id")
    found = Counter(
        f"{t.env} task {t.task.id}"
        for item in held
        for t in ((item.chosen,) if isinstance(item, Pair) else (item,))
        if why(t.task)
    )
    if found:
        first = ", ".join(list(found)[:3])
        raise DataError(
            f"{sum(found.values())} of {len(held)} are of held-out tasks: {first}. What is measured on these tells "
            "nothing once they were trained on: add the rule decontaminated, or play other tasks"
        )
