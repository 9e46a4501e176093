"""What is asked of the analyst: questions in words, the truth in Python, and the SQL that finds it.

The truth is computed from `Records` and knows no SQL; the expert's SQL knows no records. That both agree is what the
tests of this environment rest on. `compare` says whether an answer is right.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from ...trajectories.messages import Json
from ...trajectories.trajectory import Task
from ..rewards import Ended, numeric_answer
from ..task import Split
from .world import DOMAINS, TOWNS, Event, Names, Records, Rules, build, draw

__all__ = ["QUESTIONS", "AnswerForm", "Prepared", "Question", "compare", "misread", "prepared", "statement", "tasks"]

AnswerForm = Literal["number", "name", "list"]
Params = dict[str, Json]
Truth = float | str | list[str] | None
_TRIES = 60

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class Question:
    """One kind of question."""

    level: int
    form: AnswerForm
    tables: tuple[str, ...]
    """Logical tables that have to be known."""
    asks: tuple[str, ...]
    """Its parameters."""
    texts: tuple[str, ...]
    """Wordings. Besides the parameters they may use the words of the domain."""
    truth: Callable[[Records, Rules, Params], Truth]
    """None where these records give no single answer."""
    sql: str
    """In logical names; {events} are the rows to read, {counts} is what makes one count, {euros} its amount."""
    readings: tuple[str, ...] = ()
    """Names of the rules that, read wrongly, give another answer."""
    most: int = 70
    """Persons that there may be."""


# ---- the truth, from the records -------------------------------------------------------------------------------------


def _events(records: Records, rules: Rules, p: Params) -> list[Event]:
    return records.counted(rules, p["first"], p["last"])


def _euros(rules: Rules, amounts: Iterable[int | None]) -> list[float]:
    """The known amounts."""
    return [amount / (100 if rules.cents else 1) for amount in amounts if amount is not None]


def _living(records: Records, rules: Rules, p: Params) -> Truth:
    return sum(bool(person.town == p["town"]) for person in records.persons.values())


def _either(records: Records, rules: Rules, p: Params) -> Truth:
    return sum(person.town in (p["town"], p["other"]) for person in records.persons.values())


def _kind(records: Records, rules: Rules, p: Params) -> Truth:
    return sum(bool(thing.kind == p["kind"]) for thing in records.things.values())


def _different(records: Records, rules: Rules, p: Params) -> Truth:
    return len({event.person for event in _events(records, rules, p)})


def _total(records: Records, rules: Rules, p: Params) -> Truth:
    return sum(_euros(rules, (event.amount for event in _events(records, rules, p)))) or None


def _average(records: Records, rules: Rules, p: Params) -> Truth:
    counts = [event.count for event in _events(records, rules, p) if event.count or not rules.unknown]
    return sum(counts) / len(counts) if counts else None


def _most(scores: dict[str, float]) -> str | None:
    """The name with the highest score, if it is one alone."""
    best = [name for name, score in scores.items() if score >= max(scores.values()) - 0.01]
    return best[0] if len(best) == 1 else None


def _top(records: Records, rules: Rules, p: Params) -> Truth:
    totals: dict[str, float] = defaultdict(float)
    for event in _events(records, rules, p):
        totals[records.things[event.thing].name] += sum(_euros(rules, [event.amount]))
    return _most(totals)


def _from_town(records: Records, rules: Rules, p: Params) -> Truth:
    theirs = [event for event in _events(records, rules, p) if records.persons[event.person].town == p["town"]]
    return sum(_euros(rules, (event.amount for event in theirs))) or None


def _absent(records: Records, rules: Rules, p: Params) -> Truth:
    present = {event.person for event in _events(records, rules, p)}
    found = [q.name for q in records.persons.values() if q.town == p["town"] and q.id not in present]
    return found if 1 <= len(found) <= 8 else None


def _regulars(records: Records, rules: Rules, p: Params) -> Truth:
    times = Counter(event.person for event in _of_kind(records, rules, p))
    found = [q.name for q in records.persons.values() if q.town == p["town"] and times[q.id] >= p["least"]]
    return found if 1 <= len(found) <= 8 else None


def _best_site(records: Records, rules: Rules, p: Params) -> Truth:
    amounts: dict[int, list[int | None]] = defaultdict(list)
    for event in _of_kind(records, rules, p):
        amounts[event.site].append(event.amount)
    averages = {}
    for site, all_ in amounts.items():
        known = _euros(rules, all_)
        if len(all_) >= p["least"] and known:
            averages[records.sites[site].name] = sum(known) / len(known)
    return _most(averages) if len(averages) > 2 else None


def _elsewhere(records: Records, rules: Rules, p: Params) -> Truth:
    amounts = []
    for event in _of_kind(records, rules, p):
        at, home = records.sites[event.site].town, records.persons[event.person].town
        if home == p["town"] and at is not None and at != home:
            amounts.append(event.amount)
    return sum(_euros(rules, amounts)) or None


def _of_kind(records: Records, rules: Rules, p: Params) -> list[Event]:
    return [event for event in _events(records, rules, p) if records.things[event.thing].kind == p["kind"]]


# ---- the questions ---------------------------------------------------------------------------------------------------

_WHAT = ("person", "event")
_PERIOD = ("first", "last")

QUESTIONS: dict[str, Question] = {
    "living": Question(
        1, "number", ("person",), ("town",),
        ("How many {persons} live in {town}?", "Give the number of {persons} from {town}."),
        _living, "SELECT count(*) FROM person WHERE person.town = '{town}'", most=280,
    ),
    "either": Question(
        1, "number", ("person",), ("town", "other"),
        ("How many {persons} live in {town} or {other}?",),
        _either, "SELECT count(*) FROM person WHERE person.town IN ('{town}', '{other}')", most=280,
    ),
    "kind": Question(
        1, "number", ("thing",), ("kind",),
        ("How many of the {things} are in {kind}?", "Count the {things} in {kind}."),
        _kind, "SELECT count(*) FROM thing WHERE thing.kind = '{kind}'",
    ),
    "different": Question(
        2, "number", ("event",), _PERIOD,
        ("How many different {persons} appear in the {events} {when}?",),
        _different, "SELECT count(DISTINCT event.person) FROM {events} WHERE {counts}", ("void",), most=280,
    ),
    "total": Question(
        2, "number", ("event",), _PERIOD,
        ("What is the total {amount} of the {events} {when}, in euros?",
         "Add up the {amount} of all {events} {when}, in euros."),
        _total, "SELECT round(sum({euros}), 2) FROM {events} WHERE {counts}", ("void", "cents"),
    ),
    "average": Question(
        2, "number", ("event",), _PERIOD,
        ("What is the average number of {count} of the {events} {when}, where recorded, to two decimals?",),
        _average, "SELECT round(avg(nullif(event.count, 0)), 2) FROM {events} WHERE {counts}", ("void", "unknown"),
    ),
    "top": Question(
        3, "name", ("thing", "event"), _PERIOD,
        ("Which of the {things} has the highest total {amount} {when}? Give its name.",),
        _top,
        "SELECT thing.name FROM {events} JOIN thing ON thing.id = event.thing WHERE {counts}"
        " GROUP BY thing.id ORDER BY sum({euros}) DESC LIMIT 1",
        ("void",),
    ),
    "from town": Question(
        3, "number", _WHAT, ("town", *_PERIOD),
        ("What is the total {amount} of {persons} from {town} for {events} {when}, in euros?",),
        _from_town,
        "SELECT round(sum({euros}), 2) FROM {events} JOIN person ON person.id = event.person"
        " WHERE person.town = '{town}' AND {counts}",
        ("void", "cents"),
    ),
    "absent": Question(
        3, "list", _WHAT, ("town", *_PERIOD),
        ("Which {persons} from {town} appear in none of the {events} {when}? List their names.",),
        _absent,
        "SELECT person.name FROM person WHERE person.town = '{town}'"
        " AND person.id NOT IN (SELECT event.person FROM {events} WHERE {counts})",
        ("void",),
    ),
    "regulars": Question(
        4, "list", ("person", "thing", "event"), ("town", "kind", "least", *_PERIOD),
        ("Which {persons} from {town} appear in {least} or more of the {events} in {kind} {when}? List their names.",),
        _regulars,
        "SELECT person.name FROM {events} JOIN person ON person.id = event.person JOIN thing ON thing.id = event.thing"
        " WHERE person.town = '{town}' AND thing.kind = '{kind}' AND {counts}"
        " GROUP BY person.id HAVING count(*) >= {least}",
        ("void", "dated", "once"),
    ),
    "best site": Question(
        4, "name", ("site", "thing", "event"), ("kind", "least", *_PERIOD),
        ("Which of the {sites} with {least} or more {events} in {kind} {when} has the highest average {amount} of "
         "these, where known? Give its name.",),
        _best_site,
        "SELECT site.name FROM {events} JOIN site ON site.id = event.site JOIN thing ON thing.id = event.thing"
        " WHERE thing.kind = '{kind}' AND {counts}"
        " GROUP BY site.id HAVING count(*) >= {least} ORDER BY avg({euros}) DESC LIMIT 1",
        ("void", "dated", "once"),
    ),
    "elsewhere": Question(
        4, "number", ("person", "thing", "site", "event"), ("town", "kind", *_PERIOD),
        ("What is the total {amount}, in euros, of {events} in {kind} {when} by {persons} from {town} at {sites} in "
         "another town?",),
        _elsewhere,
        "SELECT round(sum({euros}), 2) FROM {events} JOIN person ON person.id = event.person JOIN thing"
        " ON thing.id = event.thing JOIN site ON site.id = event.site"
        " WHERE person.town = '{town}' AND site.town <> person.town AND thing.kind = '{kind}' AND {counts}",
        ("void", "dated", "once", "cents"),
    ),
}  # fmt: skip


def statement(name: str, rules: Rules, p: Params) -> str:
    """The SQL that answers a question, in logical names."""
    counts = f"event.{rules.dated} BETWEEN '{p.get('first')}' AND '{p.get('last')}'"
    if rules.void:
        counts += f" AND event.mark IS NOT '{rules.void}'"
    return QUESTIONS[name].sql.format(
        events="(SELECT DISTINCT * FROM event) AS event" if rules.once else "event",
        counts=counts,
        euros="event.amount / 100.0" if rules.cents else "event.amount",
        **p,
    )


# ---- tasks and databases ---------------------------------------------------------------------------------------------


def tasks(split: Split, rng: random.Random) -> Iterator[Task]:
    """Endless, levels in turn. Level 1: count rows of one table (4 calls). 2: a figure of the events, by the rules in
    the notes (5). 3: with a join (6). 4: with joins, groups, duplicates, and one of two dates to decide for (7, 8)."""
    level = 0
    while True:
        level = level % 4 + 1
        while True:
            domain = rng.choice(sorted(DOMAINS))
            name = rng.choice([name for name, question in QUESTIONS.items() if question.level == level])
            params, when = _params(QUESTIONS[name], domain, rng)
            if _split_of(domain, name, params) == split:
                break
        words = DOMAINS[domain]
        text = rng.choice(QUESTIONS[name].texts).format(
            persons=words.persons,
            things=words.things,
            events=words.events,
            sites=words.sites,
            amount=words.amount,
            count=words.count,
            when=when,
            **params,
        )
        data = {"domain": domain, "question": name, "params": params}
        yield Task(text, data, seed=rng.randrange(2**31), kind=name, level=level)


def _params(question: Question, domain: str, rng: random.Random) -> tuple[Params, str]:
    """Random parameters, and the period in words."""
    town, other = rng.sample(TOWNS, 2)
    month = rng.randrange(12) if question.level < 4 else rng.randrange(7)
    end = month if question.level < 4 else month + 5
    when = f"in {MONTHS[month]} 2024" if end == month else f"from {MONTHS[month]} to {MONTHS[end]} 2024"
    all_: Params = {
        "town": town, "other": other, "kind": rng.choice(DOMAINS[domain].kinds), "least": rng.randrange(2, 4),
        "first": f"2024-{month + 1:02}-01", "last": f"2024-{end + 1:02}-{DAYS[end]}",
    }  # fmt: skip
    return {name: all_[name] for name in question.asks}, when


def _split_of(domain: str, name: str, params: Params) -> Split:
    """By what is asked, in what business: train 70 %, validation 10 %, test 20 %."""
    bucket = zlib.crc32(json.dumps([domain, name, params]).encode()) % 10
    return "test" if bucket in (0, 1) else "validation" if bucket == 2 else "train"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A task's database, and the answer to its question."""

    names: Names
    rules: Rules
    image: bytes
    truth: Truth


def prepared(task: Task) -> Prepared:
    """Records with a single answer to the task's question. Nearly always every wrong reading of the rules that matter
    gives another one."""
    return _prepared(json.dumps(task.data, sort_keys=True), task.level, task.seed)


@lru_cache(maxsize=64)  # a task is played many times, by a group or under many faults, and its records take 2 to 25 ms
def _prepared(data: str, level: int, seed: int) -> Prepared:
    task, rng = json.loads(data), random.Random(f"{seed}/{data}")
    domain, params, question = DOMAINS[task["domain"]], task["params"], QUESTIONS[task["question"]]
    towns = [params[name] for name in ("town", "other") if name in params]
    deep = level == 4
    rules = Rules(
        dated=rng.choice(("made", "settled")) if deep else "made",
        void=domain.void,
        once=deep,
        unknown=True,
        cents=rng.random() < 0.5,
    )
    names = Names.draw(domain, rng)
    wrong = [misread(rules, reading) for reading in question.readings]
    best: tuple[int, Records, Truth] | None = None
    tries = 0
    while best is None or (best[0] < len(wrong) and tries < _TRIES):
        tries += 1
        records = draw(domain, rng, rules, towns, question.most)
        truth = question.truth(records, rules, params)
        if truth is None:
            continue
        told = sum(not compare(question.form, question.truth(records, r, params), truth) for r in wrong)
        if best is None or told > best[0]:
            best = told, records, truth
    return Prepared(names, rules, build(best[1], names), best[2])


def misread(rules: Rules, reading: str) -> Rules:
    """The rules with one of them read wrongly."""
    match reading:
        case "dated":
            return replace(rules, dated="settled" if rules.dated == "made" else "made")
        case "void":
            return replace(rules, void="")
        case "once":
            return replace(rules, once=False)
        case "unknown":
            return replace(rules, unknown=False)
    return replace(rules, cents=not rules.cents)


# ---- is it right? ----------------------------------------------------------------------------------------------------


def compare(form: AnswerForm, given: Json, truth: Truth) -> bool:
    """Whether `given` is the truth.

    A number may are in a text, alone of its kind, and is right to half a hundredth. Case, quotes, a full stop and
    space at the ends do not count in names. A list may be a JSON list or a text with commas, semicolons, line breaks or
    "and"; its order does not count. A list of guesses is no answer where one is asked for.
    """
    if given is None or truth is None or isinstance(given, (bool, dict)):
        return False
    if form == "list":
        assert isinstance(truth, list)
        names = _names(given)
        return len(names) == len(set(names)) and set(names) == set(map(_plain, truth))
    if isinstance(given, list):
        if len(given) != 1:
            return False
        (given,) = given
    if form == "name":
        return isinstance(given, str) and _plain(given) == _plain(str(truth))
    if isinstance(given, (list, dict)):
        return False
    term = numeric_answer(lambda _: truth, rel=0, abs=0.0051)
    return term(Ended(Task(""), False, None, None, (), str(given), None)) == 1.0


def _plain(name: str) -> str:
    return " ".join(name.split()).strip("\"'`*.[] ").casefold()


def _names(given: Json) -> list[str]:
    """The names in an answer, plain."""
    if isinstance(given, str):
        try:
            parsed = json.loads(given)
        except (ValueError, RecursionError):
            parsed = None
        given = parsed if isinstance(parsed, list) else re.split(r"[,;\n]|\band\b", given)
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        return []
    return [plain for name in given if (plain := _plain(name.strip().removeprefix("- ")))]
