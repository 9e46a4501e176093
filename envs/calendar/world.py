"""The calendar's tasks, and how its world is filled."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

from ...trajectories.messages import Json
from ...trajectories.trajectory import Task
from ..task import Split

__all__ = ["NAMES", "ROOMS", "new_world", "tasks"]

# Other people than at the order desk: this world is new to a policy that was trained there.
NAMES = (
    "Alma", "Boris", "Cleo", "Dirk", "Esme", "Fritz", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Lars", "Mona", "Nils",
    "Olga", "Paul", "Ruth", "Stan", "Thea", "Ugo", "Viola", "Walt", "Xenia", "Yuri",
)  # fmt: skip
TOPICS = (
    "review", "budget", "hiring", "launch", "design", "sales", "demo", "training", "planning", "audit", "workshop",
    "interview", "lunch", "retreat", "survey", "pitch", "handover", "safety", "party", "lecture",
)  # fmt: skip
ROOMS = ("Amber", "Birch", "Coral", "Delta", "Ebony", "Fern", "Gold", "Heron")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
TIMES = ("9:00", "10:00", "11:00", "13:00", "14:00", "15:00")

# The same goal is worded in several ways, so that a policy reads it and does not match one string.
WORDINGS = {
    "cancel": (
        "Cancel {who}'s {topic}.",
        "{who} cannot come to the {topic}. Cancel it.",
        "Please cancel the {topic} of {who}.",
    ),
    "move": (
        "Move {who}'s {topic} to {room}.",
        "{who}'s {topic} should be in {room}.",
        "Change the room of {who}'s {topic} to {room}.",
    ),
    "book": (
        "Book {who} on {day} at {time}.",
        "{who} has time on {day}. Book {time}.",
        "Please book {time} on {day} with {who}.",
    ),
    "decide": (
        "Cancel {who}'s {topic}, or move it to {room} if it is confirmed.",
        "{who} cannot keep the {topic}: move it to {room} if confirmed, else cancel it.",
    ),
}


def _split_of(name: str, what: str) -> Split:
    """Train 80 %, validation 10 %, test 10 % of all (person, topic) and (person, slot) pairs."""
    bucket = zlib.crc32(f"{name}/{what}".encode()) % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def tasks(split: Split, rng: random.Random) -> Iterator[Task]:
    """Endless, levels in turn.

    Level 1: one meeting, person by name (2 calls). 2: by e-mail, or with a decision, or a slot to book (3).
    3: two goals (5). 4: two goals by e-mail, each with a decision (8).
    """
    meetings = [(n, t) for n in NAMES for t in TOPICS if _split_of(n, t) == split]
    slots = [(n, f"{d} {t}") for n in NAMES for d in DAYS for t in TIMES if _split_of(n, f"{d} {t}") == split]
    level = 0
    while True:
        level = level % 4 + 1
        decide = level == 4 or (level == 2 and rng.random() < 0.5)
        goals: dict[str, dict[str, Json]] = {}
        while len(goals) < (1 if level < 3 else 2):
            by_email = level == 4 or (level == 2 and not decide) or (level == 3 and len(goals) == 1)
            kind = "decide" if decide else rng.choice(("cancel", "move", "book") if by_email else ("cancel", "move"))
            name, what = rng.choice(slots if kind == "book" else meetings)
            if name not in goals:
                goals[name] = _goal(kind, name, what, by_email, rng)
        text = " ".join(goal.pop("text") for goal in goals.values())
        family = "+".join(sorted({goal["kind"] for goal in goals.values()}))
        yield Task(text, {"goals": list(goals.values())}, seed=rng.randrange(2**31), kind=family, level=level)


def _goal(kind: str, name: str, what: str, by_email: bool, rng: random.Random) -> dict[str, Json]:
    topic, day, time = ("", *what.split(" ")) if kind == "book" else (what, "", "")
    room = rng.choice(ROOMS) if kind in ("move", "decide") else ""
    who = f"{name.lower()}@team.org" if by_email else name
    text = rng.choice(WORDINGS[kind]).format(who=who, topic=topic, room=room, day=day, time=time)
    return {
        "kind": kind, "name": name, "by_email": by_email, "topic": topic, "day": day, "time": time, "room": room,
        "confirmed": rng.random() < 0.5, "text": text,
    }  # fmt: skip


def new_world(task: Task, rng: random.Random) -> dict[str, Json]:
    """Five people with two to four meetings and two days of free slots each, those of the task among them.

    `people`, `meetings` and `slots` by id, and `audit`: every change as [what it concerned, the change].
    """
    goals = {goal["name"]: goal for goal in task.data["goals"]}
    names = [*goals, *rng.sample([n for n in NAMES if n not in goals], 5 - len(goals))]
    rng.shuffle(names)
    numbers = rng.sample(range(10, 100), 80)
    people, meetings, slots = {}, {}, {}
    for name in names:
        people[f"u{numbers.pop()}"] = {"name": name, "email": f"{name.lower()}@team.org"}
        goal = goals.get(name, {})
        wanted = goal.get("topic", "")
        topics = rng.sample([t for t in TOPICS if t != wanted], rng.randrange(1, 4))
        if wanted:
            topics.insert(rng.randrange(len(topics) + 1), wanted)
        for topic in topics:
            confirmed = goal["confirmed"] if topic == wanted else rng.random() < 0.5
            room = rng.choice([r for r in ROOMS if r != goal.get("room")])
            meetings[f"m{numbers.pop()}"] = {
                "name": name, "topic": topic, "status": "confirmed" if confirmed else "open", "room": room,
            }  # fmt: skip
        day, time = goal.get("day", ""), goal.get("time", "")
        days = [day or rng.choice(DAYS), *rng.sample([d for d in DAYS if d != day], 1)]
        for d in dict.fromkeys(days):
            times = set(rng.sample([t for t in TIMES if t != time], 2)) | ({time} if d == day else set())
            for t in sorted(times, key=TIMES.index):
                slots[f"s{numbers.pop()}"] = {"name": name, "day": d, "time": t, "bookings": 0}
    return {"people": people, "meetings": meetings, "slots": slots, "audit": []}
