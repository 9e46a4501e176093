"""Which faults an episode meets: plans in code, on one line, as a mapping, or in a YAML or JSON file.

A `FaultPlan` says which kinds of fault may strike, and either how many an episode gets (`count`) or how often a call is
struck (`rates`). What happens follows from hash(plan seed, task id) or hash(plan seed, task id, tool, nth call)
alone, so every agent that does the same task under the same plan meets the same faults (common random numbers), and a
group shares them. An entry of a plan is a kind (`unavailable`), and may be narrowed to tools and calls
(`unavailable@refund#2-5`). A `Curriculum` is a plan that changes with progress.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson

from ..trajectories.errors import ConfigError, UnknownName
from ..trajectories.trajectory import Task
from .definition import Tool
from .faults import FAULTS, FaultSite, FaultState, Target, call_range, target_of

__all__ = ["Curriculum", "FaultPlan"]

_FORMS = (
    "'count=1', 'count=2:unavailable,stale_id', 'unavailable:0.2,stale_id:0.1' or 'unavailable@refund#2-5:0.2', with "
    "'@SEED' at the end if wanted, or a file that ends in .yaml or .json"
)
_FILE = re.compile(r"(?!count=)(.+\.(?:yaml|yml|json))(?:@(-?\d+))?", re.IGNORECASE)
_MOST = 1000
"""Faults of one episode."""
_PLAN_KEYS = ("seed", "count", "faults")
_ENTRY_KEYS = ("kind", "rate", "number", "tools", "calls")


def _solvable() -> tuple[str, ...]:
    """The kinds after which the task can still be done: what a plan draws from that names none."""
    return tuple(kind for kind, one in FAULTS.items() if one.solvable)


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Which faults an episode meets.

    One-line forms: `count=1`, `count=2:unavailable,stale_id`, `unavailable:0.2,stale_id:0.1`; each may end in `@SEED`.
    A kind may be narrowed to tools and calls: see `Target`.
    """

    kinds: tuple[str, ...] = field(default_factory=_solvable)
    """Entries that `count` draws from; empty where there is no count. One that is listed twice may be drawn twice."""
    count: int = 0
    """How many faults strike an episode, kinds drawn without repetition while they last."""
    rates: tuple[tuple[str, float], ...] = ()
    """(entry, probability for each call that it can strike)."""
    seed: int = 0

    def __post_init__(self) -> None:
        rates = [(str(target_of(entry)), rate) for entry, rate in self.rates]
        kinds = tuple(str(target_of(entry)) for entry in self.kinds)
        if self.count and rates:
            raise ConfigError("a fault plan has either a count or rates, not both")
        if not 0 <= self.count <= _MOST:
            raise ConfigError(f"a fault plan's count is 0 to {_MOST}, got {self.count}")
        if self.count and not kinds:
            raise ConfigError(f"a plan of {self.count} faults needs at least one kind; known: {', '.join(FAULTS)}")
        if not all(0 <= rate <= 1 for _, rate in rates):
            raise ConfigError(f"a fault's rate lies between 0 and 1, got {dict(rates)}")
        if len(dict(rates)) < len(rates):
            raise ConfigError(f"a fault plan gives one entry two rates: {rates}")
        # one form for each meaning: equal plans compare equal, and parse(str(plan)) == plan
        object.__setattr__(self, "rates", tuple(rates))
        object.__setattr__(self, "kinds", kinds if self.count else ())

    @classmethod
    def parse(cls, text: str, *, seed: int = 0) -> FaultPlan:
        """Reads the one-line form, or the file that it names (`plan.yaml`, `plan.yaml@SEED`).

        Args:
            seed: The plan's seed where neither line nor file names one.

        Raises `ConfigError` or `UnknownName`.
        """
        text = text.strip()
        if file := _FILE.fullmatch(text):
            plan = cls.load(file[1], seed=seed)
            return replace(plan, seed=int(file[2])) if file[2] else plan
        return cls._line(text, seed)

    @classmethod
    def _line(cls, text: str, seed: int) -> FaultPlan:
        body, _, tail = text.rpartition("@")
        if re.fullmatch(r"\s*-?\d+", tail) and "@" in text:
            seed = int(tail)
        else:
            body = text
        try:
            if body.startswith("count="):
                count, _, entries = body.removeprefix("count=").partition(":")
                chosen = tuple(e.strip() for e in entries.split(",") if e.strip()) or _solvable()
                return cls(chosen, int(count), (), seed)
            rates = [part.split(":") for part in body.split(",") if part.strip()]
            return cls((), 0, tuple((entry.strip(), float(rate)) for entry, rate in rates), seed)
        except ConfigError:
            raise
        except ValueError:
            raise ConfigError(f"cannot read the fault plan {text!r}; expected {_FORMS}") from None

    @classmethod
    def load(cls, path: str | Path, *, seed: int = 0) -> FaultPlan:
        """Reads a YAML or JSON file that holds a plan as `from_dict` takes it, or as one line. Raises `ConfigError` or
        `UnknownName`."""

        def read(data: Any) -> FaultPlan:
            if not data:
                raise ConfigError("the file holds no fault plan; for an episode without faults, name no plan")
            return cls._line(data.strip(), seed) if isinstance(data, str) else cls.from_dict(data, seed=seed)

        return _in_file(path, read)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, seed: int = 0) -> FaultPlan:
        """A plan as a mapping:

            seed: 7
            faults:                 # entries with a rate each ...
              - {kind: unavailable, rate: 0.2, tools: [refund, cancel_order]}
              - {kind: stale_id, rate: 0.1, calls: 3-}

            count: 2                # ... or so many, drawn from these; from all kinds where there are none
            faults: [unavailable, {kind: stale_id, tools: refund}]

            faults:                 # ... or so many of each
              - {kind: unavailable, number: 2}
              - {kind: stale_id, number: 1}

        Raises `ConfigError` or `UnknownName`.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"a fault plan is a mapping with {', '.join(_PLAN_KEYS)}, got {str(data)[:80]!r}")
        if data and all(isinstance(key, (int, float)) for key in data):
            raise ConfigError("this is a curriculum, a plan for each progress: read it with Curriculum.load")
        for key in data:
            if key not in _PLAN_KEYS:
                raise UnknownName("part of a fault plan", str(key), _PLAN_KEYS)
        if data and not {"faults", "count"} & data.keys():
            raise ConfigError("the plan has neither faults nor a count, so it holds no fault")
        entries = data.get("faults")
        if not isinstance(entries, (list, tuple, type(None))):
            raise ConfigError(f"the faults of a plan are a list, got {str(entries)[:80]!r}")
        seed, count = _whole("seed", data.get("seed", seed)), _whole("count", data.get("count", 0))
        read = [_entry(entry) for entry in entries or ()]
        if "count" in data:
            if any(rate is not None or number is not None for _, rate, number in read):
                raise ConfigError("a plan with a count draws from its faults: they have no rate and no number")
            return cls(tuple(entry for entry, _, _ in read) or _solvable(), count, (), seed)
        if any(number is not None for _, _, number in read):
            if not all(number is not None and rate is None for _, rate, number in read):
                raise ConfigError("the faults of a plan have either numbers or rates, all of them the same")
            kinds = [entry for entry, _, number in read for _ in range(number or 0)]
            return cls(tuple(kinds), len(kinds), (), seed)
        if missing := [entry for entry, rate, _ in read if rate is None]:
            raise ConfigError(f"the fault {missing[0]!r} has no rate and no number, and the plan no count; give one")
        return cls((), 0, tuple((entry, rate) for entry, rate, _ in read if rate is not None), seed)

    def to_dict(self) -> dict[str, Any]:
        """The mapping that `from_dict` reads."""
        plan: dict[str, Any] = {"seed": self.seed}
        if self.count:
            return plan | {"count": self.count, "faults": [_as_mapping(entry) for entry in self.kinds]}
        return plan | {"faults": [_as_mapping(entry) | {"rate": rate} for entry, rate in self.rates]}

    def to_yaml(self) -> str:
        """The text of a file that `load` reads."""
        return _yaml_text(self.to_dict())

    def __str__(self) -> str:
        if self.rates:
            body = ",".join(f"{entry}:{rate!r}" for entry, rate in self.rates)
        elif not self.count:
            return ""
        else:
            body = f"count={self.count}:{','.join(self.kinds)}"  # all of them: a new kind must not change a replay
        return f"{body}@{self.seed}"

    def begin(self, task: Task, tools: Mapping[str, Tool], site: FaultSite) -> FaultState:
        """The faults that this plan holds for `task`: the same for every agent. A count is drawn from the kinds that
        can strike in this environment. Raises `UnknownName` for a tool that there is none of, and `ConfigError` where
        the tools that an entry names cannot be struck by its kind."""
        for entry in (*self.kinds, *(entry for entry, _ in self.rates)):
            if (target := target_of(entry)).tools:
                _check_tools(target, tools, site)
        key = f"{self.seed}/{task.id}"
        state = FaultState(rates=dict(self.rates), key=key)
        able = [entry for entry in self.kinds if FAULTS[target_of(entry).kind].fits(tools, site)]
        if self.count and able:
            rng = random.Random(f"{key}/plan")
            drawn: list[str] = []
            while len(drawn) < self.count:
                drawn += rng.sample(able, min(len(able), self.count - len(drawn)))
            # A level's shortest solution has at least level + 1 calls: nearly every fault finds a call to strike. Where
            # the plan itself says what to strike, the first such call is it.
            earliest = [rng.randrange(task.level + 1) for _ in drawn]
            named = [bool(target_of(entry).tools or target_of(entry).calls) for entry in drawn]
            state.pending = [(e, 0 if own else at) for e, at, own in zip(drawn, earliest, named, strict=True)]
        return state


def _check_tools(target: Target, tools: Mapping[str, Tool], site: FaultSite) -> None:
    for name in target.tools:
        if name not in tools:
            raise UnknownName("tool in the fault plan", name, tools)
    fault = FAULTS[target.kind]
    able = [name for name, tool in tools.items() if fault.suits(tool)] if fault.fits(tools, site) else []
    if not set(able) & set(target.tools):
        raise ConfigError(
            f"the fault {target.kind} cannot strike {' or '.join(target.tools)} here; it can strike "
            f"{', '.join(able) or 'no tool of this environment'}"
        )


def _entry(data: Any) -> tuple[str, float | None, int | None]:
    """(entry, rate, number) of one fault of a mapping."""
    if isinstance(data, str):
        entry, _, rate = data.partition(":")
        return str(target_of(entry.strip())), _rate(rate) if rate.strip() else None, None
    if not isinstance(data, Mapping) or "kind" not in data:
        raise ConfigError(f"a fault of a plan is a kind, or a mapping with kind, rate ..., got {str(data)[:80]!r}")
    for key in data:
        if key not in _ENTRY_KEYS:
            raise UnknownName("part of a fault", str(key), _ENTRY_KEYS)
    tools = data.get("tools", ())
    names = (tools,) if isinstance(tools, str) else tools
    if "tools" in data and not names:
        raise ConfigError(f"the fault {data['kind']} names no tool; leave tools away to strike all of them")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"the tools of a fault are names, got {str(tools)[:80]!r}")
    calls = data.get("calls")
    first, last = call_range(str(calls)) if calls is not None else (1, None)
    number = data.get("number")
    if number is not None and not 0 <= _whole("number", number) <= _MOST:
        raise ConfigError(f"a fault's number is 0 to {_MOST}, got {number}")
    return (
        str(Target(str(data["kind"]), tuple(names), first, last)),
        _rate(data["rate"]) if data.get("rate") is not None else None,
        number,
    )


def _as_mapping(entry: str) -> dict[str, Any]:
    target = target_of(entry)
    mapping: dict[str, Any] = {"kind": target.kind}
    if target.tools:
        mapping["tools"] = list(target.tools)
    return mapping | ({"calls": target.calls} if target.calls else {})


def _rate(value: Any) -> float:
    try:  # YAML reads 1e-3 as a text
        rate = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 <= rate <= 1:
        raise ConfigError(f"a fault's rate is a number between 0 and 1, got {value!r}")
    return rate


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"a fault plan's {name} is a whole number, got {value!r}")
    return value


@dataclass(frozen=True, slots=True)
class Curriculum:
    """A fault plan that changes with progress, e.g. from one fault to two.

    Curriculum(((0.0, "count=1:unavailable"), (0.3, "count=1"), (0.7, "count=2")))
    """

    steps: tuple[tuple[float, str], ...]
    """(progress from which it holds, one-line plan), ascending; the first from 0."""

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.steps]
        if not starts or starts[0] != 0 or starts != sorted(starts):
            raise ConfigError(f"a curriculum's steps begin at 0 and ascend, got {starts}")
        for _, line in self.steps:
            FaultPlan.parse(line)

    @classmethod
    def load(cls, path: str | Path) -> Curriculum:
        """Reads a YAML file that holds a plan for each progress, as `from_dict` takes it. Raises what `FaultPlan.load`
        raises."""
        return _in_file(path, cls.from_dict)

    @classmethod
    def from_dict(cls, data: Mapping[float, Any]) -> Curriculum:
        """Progress from which it holds -> a plan, on one line or as a mapping:

            0.0: count=1:unavailable
            0.3: {count: 1}
            0.7: {faults: [{kind: unavailable, rate: 0.2, tools: refund}]}

        Raises `ConfigError` or `UnknownName`.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"a curriculum is a mapping of progress to plans, got {str(data)[:80]!r}")
        steps: list[tuple[float, str]] = []
        for start, plan in data.items():
            if not isinstance(start, (int, float)) or isinstance(start, bool) or not math.isfinite(start):
                raise ConfigError(f"a curriculum's steps are numbers from 0, got {start!r}")
            read = FaultPlan.parse(plan or "") if isinstance(plan, (str, type(None))) else FaultPlan.from_dict(plan)
            steps.append((float(start), str(read)))
        return cls(tuple(steps))

    def to_yaml(self) -> str:
        """The text of a file that `load` reads."""
        return _yaml_text(dict(self.steps))

    def at(self, progress: float, seed: int = 0) -> FaultPlan:
        """The plan at `progress` (0 to 1)."""
        line = [line for start, line in self.steps if start <= max(progress, 0.0)][-1]
        return replace(FaultPlan.parse(line), seed=seed)


_T = TypeVar("_T")


def _in_file(path: str | Path, read: Callable[[Any], _T]) -> _T:
    """What `read` makes of the data in a YAML or JSON file; its errors name the file."""
    path = Path(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the fault plan {path}: {error.strerror}") from None
    try:
        return read(orjson.loads(text) if path.suffix.lower() == ".json" else _yaml_data(text))
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _yaml_data(text: bytes) -> Any:
    """Raises `ConfigError`, for a key that is twice in one mapping too: YAML would keep the last in silence."""
    import yaml

    try:
        for node in _nodes(yaml.compose(text, Loader=yaml.SafeLoader)):
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            if twice := next((key for key in keys if keys.count(key) > 1), None):
                raise ConfigError(f"the key {twice!r} is twice in one mapping")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        raise ConfigError(f"no YAML: {' '.join(str(error).split())}") from None


def _nodes(node: Any) -> list[Any]:
    """All mappings below a YAML node."""
    if node is None or isinstance(node.value, str):
        return []
    pairs = node.value if node.id == "mapping" else [(child,) for child in node.value]
    below = [found for pair in pairs for child in pair for found in _nodes(child)]
    return [node, *below] if node.id == "mapping" else below


def _yaml_text(data: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(data, sort_keys=False, default_flow_style=None)
    return text
