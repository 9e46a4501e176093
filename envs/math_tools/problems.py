"""What is asked: word problems, the right result in plain Python, and the expert's course through the tools.

`result` sees the records and no tool; `course` sees what the tools told and no record. Names of records and figures of
the text are parameters, by which tasks are split.
"""

from __future__ import annotations

import json
import math
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from ...trajectories.messages import Json
from ...trajectories.trajectory import Task
from ..experts import Asked
from ..task import Split
from .world import NAMES, Record

__all__ = ["PROBLEMS", "Facts", "Problem", "Steps", "tasks", "wanted"]

Params = dict[str, Json]


class Facts(Protocol):
    """What the right result may be computed from."""

    def record(self, table: str, name: str) -> Record: ...
    def records(self, table: str) -> list[Record]: ...

    @property
    def chair_and_table(self) -> tuple[float, float]:
        """Their prices in euros, which nobody tells."""
        ...


class Steps(Protocol):
    """What a course is made of; each by whichever route is left."""

    def fact(self, table: str, name: str) -> Asked: ...
    def all_of(self, table: str) -> Asked: ...
    def compute(self, expression: str) -> Asked: ...
    def converted(self, value: float, from_unit: str, to_unit: str) -> Asked: ...
    def days(self, start: str, end: str) -> Asked: ...
    def solved(self, first: list[float], second: list[float]) -> Asked: ...


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of problem."""

    level: int
    texts: tuple[str, ...]
    names: dict[str, str]
    """Parameter -> the table from which its name comes."""
    figures: dict[str, tuple[int, int]]
    """Parameter -> the range that its figure comes from, the end not included."""
    result: Callable[[Facts, Params], float]
    course: Callable[[Steps, Params], Asked]


# ---- level 1: one fact, one figure -----------------------------------------------------------------------------------


def _cost(w: Facts, p: Params) -> float:
    return float(p["n"] * w.record("prices", p["item"])["euros"])


def _cost_course(s: Steps, p: Params) -> Asked:
    price = yield from s.fact("prices", p["item"])
    return (yield from s.compute(f"round({p['n']} * {price['euros']}, 2)"))


def _output(w: Facts, p: Params) -> float:
    return float(p["n"] * w.record("machines", p["machine"])["parts_per_hour"])


def _output_course(s: Steps, p: Params) -> Asked:
    machine = yield from s.fact("machines", p["machine"])
    return (yield from s.compute(f"{p['n']} * {machine['parts_per_hour']}"))


def _rest(w: Facts, p: Params) -> float:
    return float(divmod(p["n"], w.record("prices", p["item"])["pieces_per_box"])[1])


def _rest_course(s: Steps, p: Params) -> Asked:
    price = yield from s.fact("prices", p["item"])
    return (yield from s.compute(f"{p['n']} % {price['pieces_per_box']}"))


# ---- level 2: two facts, or a unit -----------------------------------------------------------------------------------


def _two(w: Facts, p: Params) -> float:
    one, other = (w.record("prices", p[name])["euros"] for name in ("item", "other"))
    return float(p["n"] * one + p["m"] * other)


def _two_course(s: Steps, p: Params) -> Asked:
    one = yield from s.fact("prices", p["item"])
    other = yield from s.fact("prices", p["other"])
    return (yield from s.compute(f"round({p['n']} * {one['euros']} + {p['m']} * {other['euros']}, 2)"))


def _reduced(w: Facts, p: Params) -> float:
    return _cost(w, p) * _paid(w, p)


def _reduced_course(s: Steps, p: Params) -> Asked:
    price = yield from s.fact("prices", p["item"])
    off = yield from s.fact("discounts", p["group"])
    return (yield from s.compute(f"round({p['n']} * {price['euros']} * (100 - {off['percent']}) / 100, 2)"))


def _around(w: Facts, p: Params) -> float:
    room = w.record("rooms", p["room"])
    return _in_metres(2 * room["length"] + 2 * room["width"], room["unit"]) / 0.9144


def _around_course(s: Steps, p: Params) -> Asked:
    room = yield from s.fact("rooms", p["room"])
    around = yield from s.compute(f"2 * ({room['length']} + {room['width']})")
    return (yield from s.converted(around, room["unit"], "yd"))


def _together(w: Facts, p: Params) -> float:
    return float(math.lcm(*(w.record("machines", p[name])["service_every_days"] for name in ("machine", "other"))))


def _together_course(s: Steps, p: Params) -> Asked:
    one = yield from s.fact("machines", p["machine"])
    other = yield from s.fact("machines", p["other"])
    a, b = one["service_every_days"], other["service_every_days"]
    return (yield from s.compute(f"{a} * {b} / gcd({a}, {b})"))


def _cheapest(w: Facts, p: Params) -> float:
    return float(p["n"] * min(price["euros"] for price in w.records("prices")))


def _cheapest_course(s: Steps, p: Params) -> Asked:
    prices = yield from s.all_of("prices")
    return (yield from s.compute(f"round({p['n']} * {min(price['euros'] for price in prices)}, 2)"))


# ---- level 3: facts, a special tool, and a figure of both ------------------------------------------------------------


def _hire(w: Facts, p: Params) -> float:
    return float(_length(w.record("projects", p["project"])) * w.record("machines", p["machine"])["euros_per_day"])


def _hire_course(s: Steps, p: Params) -> Asked:
    project = yield from s.fact("projects", p["project"])
    machine = yield from s.fact("machines", p["machine"])
    days = yield from s.days(project["start"], project["end"])
    return (yield from s.compute(f"round({days} * {machine['euros_per_day']}, 2)"))


def _furniture(w: Facts, p: Params) -> float:
    chair, table = w.chair_and_table
    return float(p["n"] * chair + p["m"] * table)


def _furniture_course(s: Steps, p: Params) -> Asked:
    chair, table = yield from _unit_prices(s, p)
    return (yield from s.compute(f"round({p['n']} * {chair} + {p['m']} * {table}, 2)"))


def _floor(w: Facts, p: Params) -> float:
    room, floor = w.record("rooms", p["room"]), w.record("floors", p["floor"])
    area = _in_metres(room["length"], room["unit"]) * _in_metres(room["width"], room["unit"])
    return float(area * floor["euros"] / (0.3048**2 if floor["per"] == "ft2" else 1))


def _floor_course(s: Steps, p: Params) -> Asked:
    area, floor = yield from _area(s, p)
    return (yield from s.compute(f"round({area} * {floor['euros']}, 2)"))


def _ride(w: Facts, p: Params) -> float:
    return sum(_minutes(w.record("routes", p[name])) for name in ("route", "other")) + float(p["n"])


def _ride_course(s: Steps, p: Params) -> Asked:
    terms = []
    for name in ("route", "other"):
        route = yield from s.fact("routes", p[name])
        km = yield from _km(s, route)
        terms.append(f"{km} / {route['km_per_hour']} * 60")
    return (yield from s.compute(f"round({terms[0]} + {terms[1]} + {p['n']}, 2)"))


def _dearest(w: Facts, p: Params) -> float:
    return float(p["n"] * max(price["euros"] for price in w.records("prices")) * _paid(w, p))


def _dearest_course(s: Steps, p: Params) -> Asked:
    off = yield from s.fact("discounts", p["group"])
    prices = yield from s.all_of("prices")
    most = max(price["euros"] for price in prices)
    return (yield from s.compute(f"round({p['n']} * {most} * (100 - {off['percent']}) / 100, 2)"))


# ---- level 4: several of these, and a decision -----------------------------------------------------------------------


def _less(w: Facts, p: Params) -> float:
    return _furniture(w, p) * _paid(w, p)


def _less_course(s: Steps, p: Params) -> Asked:
    chair, table = yield from _unit_prices(s, p)
    off = yield from s.fact("discounts", p["group"])
    full = f"({p['n']} * {chair} + {p['m']} * {table})"
    return (yield from s.compute(f"round({full} * (100 - {off['percent']}) / 100, 2)"))


def _laid(w: Facts, p: Params) -> float:
    return _floor(w, p) * float(1 + p["n"] / 100) * _paid(w, p)


def _laid_course(s: Steps, p: Params) -> Asked:
    area, floor = yield from _area(s, p)
    off = yield from s.fact("discounts", p["group"])
    more, less = f"(100 + {p['n']}) / 100", f"(100 - {off['percent']}) / 100"
    return (yield from s.compute(f"round({area} * {floor['euros']} * {more} * {less}, 2)"))


def _longer(w: Facts, p: Params) -> float:
    days = max(_length(w.record("projects", p[name])) for name in ("project", "other"))
    return float(days * w.record("machines", p["machine"])["euros_per_day"])


def _longer_course(s: Steps, p: Params) -> Asked:
    days = []
    for name in ("project", "other"):
        project = yield from s.fact("projects", p[name])
        days.append((yield from s.days(project["start"], project["end"])))
    machine = yield from s.fact("machines", p["machine"])
    return (yield from s.compute(f"round({max(days)} * {machine['euros_per_day']}, 2)"))


def _slower(w: Facts, p: Params) -> float:
    return abs(_minutes(w.record("routes", p["route"])) - _minutes(w.record("routes", p["other"])))


def _slower_course(s: Steps, p: Params) -> Asked:
    minutes = []
    for name in ("route", "other"):
        route = yield from s.fact("routes", p[name])
        km = yield from _km(s, route)
        minutes.append((yield from s.compute(f"{km} / {route['km_per_hour']} * 60")))
    return (yield from s.compute(f"round({max(minutes)} - {min(minutes)}, 2)"))


def _thrifty(w: Facts, p: Params) -> float:
    rate = min(machine["euros_per_day"] for machine in w.records("machines"))
    return float(_length(w.record("projects", p["project"])) * rate * _paid(w, p))


def _thrifty_course(s: Steps, p: Params) -> Asked:
    project = yield from s.fact("projects", p["project"])
    days = yield from s.days(project["start"], project["end"])
    machines = yield from s.all_of("machines")
    rate = min(machine["euros_per_day"] for machine in machines)
    off = yield from s.fact("discounts", p["group"])
    return (yield from s.compute(f"round({days} * {rate} * (100 - {off['percent']}) / 100, 2)"))


# ---- what several share ----------------------------------------------------------------------------------------------


def _paid(w: Facts, p: Params) -> float:
    """The share of a price that is left after the discount."""
    return float(1 - w.record("discounts", p["group"])["percent"] / 100)


def _in_metres(value: float, unit: str) -> float:
    return value * {"m": 1, "ft": 0.3048}[unit]


def _length(project: Record) -> int:
    return (date.fromisoformat(project["end"]) - date.fromisoformat(project["start"])).days


def _minutes(route: Record) -> float:
    km = route["distance"] * (1.609344 if route["unit"] == "mi" else 1)
    return float(60 * km / route["km_per_hour"])


def _unit_prices(s: Steps, p: Params) -> Asked:
    equations = []
    for name in ("receipt", "other"):
        bought = yield from s.fact("receipts", p[name])
        equations.append([bought["chairs"], bought["tables"], bought["euros"]])
    return (yield from s.solved(*equations))


def _area(s: Steps, p: Params) -> Asked:
    """The room's area in the unit of the floor's price, and the floor."""
    room = yield from s.fact("rooms", p["room"])
    floor = yield from s.fact("floors", p["floor"])
    area = yield from s.compute(f"{room['length']} * {room['width']}")
    if f"{room['unit']}2" != floor["per"]:
        area = yield from s.converted(area, f"{room['unit']}2", floor["per"])
    return area, floor


def _km(s: Steps, route: Record) -> Asked:
    if route["unit"] == "km":
        return route["distance"]
    return (yield from s.converted(route["distance"], route["unit"], "km"))


_EUROS = "Give euros, to two decimals."

PROBLEMS: dict[str, Problem] = {
    "cost": Problem(
        1, ("What do {n} pieces of {item} cost? " + _EUROS, "What is paid for {n} pieces of {item}? " + _EUROS),
        {"item": "prices"}, {"n": (3, 200)}, _cost, _cost_course,
    ),
    "output": Problem(
        1, ("How many parts does the machine {machine} make in {n} hours?",),
        {"machine": "machines"}, {"n": (3, 200)}, _output, _output_course,
    ),
    "rest": Problem(
        1, ("{n} pieces of {item} are packed into boxes until no box can be filled any more. How many are left over?",),
        {"item": "prices"}, {"n": (1000, 9000)}, _rest, _rest_course,
    ),
    "two": Problem(
        2, ("What do {n} pieces of {item} and {m} of {other} cost together? " + _EUROS,),
        {"item": "prices", "other": "prices"}, {"n": (3, 90), "m": (3, 90)}, _two, _two_course,
    ),
    "reduced": Problem(
        2, ("What do {n} pieces of {item} cost with the discount for {group}? " + _EUROS,),
        {"item": "prices", "group": "discounts"}, {"n": (3, 200)}, _reduced, _reduced_course,
    ),
    "around": Problem(
        2, ("How long is a string that goes once around the floor of the {room}, in yards, to two decimals?",),
        {"room": "rooms"}, {}, _around, _around_course,
    ),
    "together": Problem(
        2, ("The machines {machine} and {other} were both serviced today. In how many days are both due on one day "
            "again, for the first time?",),
        {"machine": "machines", "other": "machines"}, {}, _together, _together_course,
    ),
    "cheapest": Problem(
        2, ("What do {n} pieces of whatever is cheapest among the prices cost? " + _EUROS,),
        {}, {"n": (3, 400)}, _cheapest, _cheapest_course,
    ),
    "hire": Problem(
        3, ("The machine {machine} is hired for the project {project}, and paid for as many days as lie between its "
            "start and its end (end minus start). What is paid? " + _EUROS,),
        {"machine": "machines", "project": "projects"}, {}, _hire, _hire_course,
    ),
    "furniture": Problem(
        3, ("The receipts {receipt} and {other} are for chairs of one price and tables of one price. What do {n} "
            "chairs and {m} tables cost? " + _EUROS,),
        {"receipt": "receipts", "other": "receipts"}, {"n": (2, 40), "m": (2, 40)}, _furniture, _furniture_course,
    ),
    "floor": Problem(
        3, ("What does a floor of {floor} for the {room} cost? " + _EUROS,),
        {"floor": "floors", "room": "rooms"}, {}, _floor, _floor_course,
    ),
    "ride": Problem(
        3, ("A bus goes out on the {route} route and back on the {other} route, each at its speed, with a break of {n} "
            "minutes. How many minutes does it take? Give two decimals.",),
        {"route": "routes", "other": "routes"}, {"n": (3, 60)}, _ride, _ride_course,
    ),
    "dearest": Problem(
        3, ("What do {n} pieces of whatever is dearest among the prices cost with the discount for {group}? "
            + _EUROS,),
        {"group": "discounts"}, {"n": (3, 400)}, _dearest, _dearest_course,
    ),
    "less": Problem(
        4, ("The receipts {receipt} and {other} are for chairs of one price and tables of one price. What do {n} "
            "chairs and {m} tables cost with the discount for {group}? " + _EUROS,),
        {"receipt": "receipts", "other": "receipts", "group": "discounts"}, {"n": (2, 40), "m": (2, 40)},
        _less, _less_course,
    ),
    "laid": Problem(
        4, ("A floor of {floor} is laid in the {room}. {n} % more than its area is bought, with the discount for "
            "{group}. What is paid? " + _EUROS,),
        {"floor": "floors", "room": "rooms", "group": "discounts"}, {"n": (3, 25)}, _laid, _laid_course,
    ),
    "longer": Problem(
        4, ("The machine {machine} is hired for {project} or {other}, whichever project is longer, and paid for as "
            "many days as lie between its start and its end (end minus start). What is paid? " + _EUROS,),
        {"machine": "machines", "project": "projects", "other": "projects"}, {}, _longer, _longer_course,
    ),
    "thrifty": Problem(
        4, ("Whichever machine costs least a day is hired for the project {project}, and paid for as many days as lie "
            "between its start and its end (end minus start), with the discount for {group}. What is paid? " + _EUROS,),
        {"project": "projects", "group": "discounts"}, {}, _thrifty, _thrifty_course,
    ),
    "slower": Problem(
        4, ("By how many minutes do the rides on the routes {route} and {other} differ, each at its speed? Give two "
            "decimals.",),
        {"route": "routes", "other": "routes"}, {}, _slower, _slower_course,
    ),
}  # fmt: skip


def tasks(split: Split, rng: random.Random) -> Iterator[Task]:
    """Endless, levels in turn. Level 1: a fact and a figure (3 calls). 2: two facts, or a unit (3, 4). 3: dates, areas,
    distances, equations (4 to 6). 4: several of these, or a decision (6 to 8)."""
    level = 0
    while True:
        level = level % 4 + 1
        while True:
            name = rng.choice([name for name, problem in PROBLEMS.items() if problem.level == level])
            problem = PROBLEMS[name]
            params: Params = {}
            for parameter, table in problem.names.items():
                params[parameter] = rng.choice([n for n in NAMES[table] if n not in params.values()])
            params |= {figure: rng.randrange(*range_) for figure, range_ in problem.figures.items()}
            if _split_of(name, params) == split:
                break
        text = rng.choice(problem.texts).format(**params)
        yield Task(text, {"problem": name, "params": params}, seed=rng.randrange(2**31), kind=name, level=level)


def wanted(task: Task) -> dict[str, list[str]]:
    """The records that a task speaks of, by table."""
    found: dict[str, list[str]] = {}
    for parameter, table in PROBLEMS[task.data["problem"]].names.items():
        found.setdefault(table, []).append(task.data["params"][parameter])
    return found


def _split_of(name: str, params: Params) -> Split:
    """By what is asked: train 70 %, validation 10 %, test 20 %."""
    bucket = zlib.crc32(json.dumps([name, params]).encode()) % 10
    return "test" if bucket in (0, 1) else "validation" if bucket == 2 else "train"
