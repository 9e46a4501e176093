"""What is asked for in `Files`: how a folder is filled, the goals, and what the folder is to be at the end."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Mapping

from ...trajectories.messages import Json
from ...trajectories.trajectory import Task
from ..task import Split

__all__ = ["FOLDERS", "TRASH", "after", "fill", "tasks"]

TRASH = "trash"
NAMES = (
    "apple", "birch", "cedar", "daisy", "elder", "fern", "ginger", "holly", "iris", "jasmine", "kiwi", "lemon",
    "maple", "nettle", "olive", "poppy", "quince", "reed", "sage", "tulip", "umber", "violet", "willow", "yarrow",
)  # fmt: skip
CLIENTS = (
    "Ada", "Ben", "Cora", "Dan", "Ella", "Finn", "Gus", "Hana", "Ivan", "June", "Kofi", "Lena", "Mila", "Noah",
    "Omar", "Pia",
)  # fmt: skip
FOLDERS = (
    "work", "home", "inbox", "drafts", "archive", "north", "south", "spring", "summer", "urgent", "later", "shared",
    "reports", "old",
)  # fmt: skip
STATUSES = ("open", "paid", "late")
LINES = ("call back", "ask again", "send a copy", "check the sum", "seen twice", "to be signed")
SIMPLE = ("append", "move", "trash")
KINDS = (*SIMPLE, "set", "decide")
SIZE = 8
"""Files in a folder at the beginning."""

WORDINGS = {
    "append": ("Add the line '{line}' to {who}.", "Write '{line}' at the end of {who}."),
    "move": ("Move {who} to {folder}.", "Put {who} into the folder {folder}."),
    "trash": ("Trash {who}.", "Put {who} into the trash."),
    "set": ("Set the status in {who} to {value}.", "Change the status of {who} to {value}."),
    "decide": (
        "If {who} is paid, move it to {folder}, else add the line '{line}' to it.",
        "Add the line '{line}' to {who}, or if it is paid, move it to {folder}.",
    ),
}


def _split_of(name: str, kind: str) -> Split:
    """Train 80 %, validation 10 %, test 10 % of all (name, kind) pairs."""
    bucket = zlib.crc32(f"{name}/{kind}".encode()) % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def tasks(split: Split, rng: random.Random) -> Iterator[Task]:
    """Endless, levels in turn.

    Level 1: one goal, the file by name (2 calls). 2: one that needs what the file says, by name or by client (3).
    3: one of each (5). 4: two decisions and a simple goal (8).
    """
    pairs = [(name, kind) for name in NAMES for kind in KINDS if _split_of(name, kind) == split]
    simple = [pair for pair in pairs if pair[1] in SIMPLE]
    reading = [pair for pair in pairs if pair[1] not in SIMPLE]
    decisions = [pair for pair in pairs if pair[1] == "decide"]
    level = 0
    while True:
        level = level % 4 + 1
        drawn = [[simple], [reading], [simple, reading], [decisions, simple, decisions]][level - 1]
        chosen = [rng.choice(some) for some in drawn]
        if len({name for name, _ in chosen}) < len(chosen):
            chosen = [rng.choice([p for p in some if p[0] not in _others(chosen, i)]) for i, some in enumerate(drawn)]
        if len({name for name, _ in chosen}) < len(chosen):
            level -= 1
            continue
        clients = rng.sample(CLIENTS, len(chosen))
        goals = [_goal(kind, name, client, rng) for (name, kind), client in zip(chosen, clients, strict=True)]
        text = " ".join(goal.pop("text") for goal in goals)
        kinds = "+".join(sorted({goal["kind"] for goal in goals}))
        yield Task(text, {"goals": goals}, seed=rng.randrange(2**31), kind=kinds, level=level)


def _others(chosen: list[tuple[str, str]], place: int) -> set[str]:
    return {name for i, (name, _) in enumerate(chosen) if i != place}


def _goal(kind: str, name: str, client: str, rng: random.Random) -> dict[str, Json]:
    by_client = kind not in SIMPLE and rng.random() < 0.5
    status = rng.choice(STATUSES)
    if kind == "decide":
        status = rng.choice(("paid", "paid", "open", "late"))
    folder, line = rng.choice(FOLDERS), rng.choice(LINES)
    value = rng.choice([s for s in STATUSES if s != status])
    who = f"the file of client {client}" if by_client else f"{name}.txt"
    text = rng.choice(WORDINGS[kind]).format(who=who, folder=folder, line=line, value=value)
    act = kind if kind != "decide" else "move" if status == "paid" else "append"
    return {
        "kind": kind, "act": act, "name": f"{name}.txt", "client": client, "by_client": by_client, "status": status,
        "folder": folder if act == "move" else "", "line": line if act == "append" else "",
        "value": value if act == "set" else "", "text": text,
    }  # fmt: skip


def fill(task: Task, rng: random.Random) -> dict[str, str]:
    """Path -> text of the folder at the beginning: the files that the task is about among others."""
    goals = task.data["goals"]
    folders = rng.sample([f for f in FOLDERS if f not in {goal["folder"] for goal in goals}], 3)
    mine, about = [goal["name"] for goal in goals], [goal["client"] for goal in goals]
    left = SIZE - len(mine)
    names = [*mine, *(f"{n}.txt" for n in rng.sample([n for n in NAMES if f"{n}.txt" not in mine], left))]
    clients = [*about, *rng.sample([c for c in CLIENTS if c not in about], left)]
    statuses = [*(goal["status"] for goal in goals), *(rng.choice(STATUSES) for _ in range(left))]
    texts = [
        f"client: {client}\namount: {rng.randrange(10, 100)}\nstatus: {status}\n"
        for client, status in zip(clients, statuses, strict=True)
    ]
    for goal, place in zip(goals, range(len(mine), SIZE), strict=False):
        if goal["by_client"]:  # who reads only the name in what `search` found takes the wrong file
            texts[place] += f"partner: {goal['client']}\n"
    files = {f"{rng.choice(folders)}/{name}": text for name, text in zip(names, texts, strict=True)}
    return dict(sorted(files.items()))


def after(task: Task, files: Mapping[str, str]) -> dict[str, str]:
    """Path -> text when all goals are met, and nothing else has changed."""
    done = dict(files)
    for goal in task.data["goals"]:
        path = next(path for path in done if path.endswith(f"/{goal['name']}"))
        match goal["act"]:
            case "append":
                done[path] += f"{goal['line']}\n"
            case "set":
                done[path] = changed(done[path], goal["value"])
            case "move":
                done[f"{goal['folder']}/{goal['name']}"] = done.pop(path)
            case "trash":
                done[f"{TRASH}/{goal['name']}"] = done.pop(path)
    return done


def changed(text: str, status: str) -> str:
    """The text with another status."""
    lines = [f"status: {status}" if line.startswith("status:") else line for line in text.splitlines()]
    return "\n".join(lines) + "\n"
