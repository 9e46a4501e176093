"""`Calendar`: its tools, its verdict and its expert."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable

from ...tools import Conflict, NotFound, tool
from ...trajectories import Json, Outcome, Task, ToolResult
from ..env import Solution, ToolEnv
from ..facets import FaultHooks
from ..task import Split
from .world import ROOMS, new_world, tasks

__all__ = ["Calendar"]

Record = dict[str, Json]


class _Faults(FaultHooks):
    def rotate_id(self, env: Calendar, tool: str, arguments: dict[str, Json]) -> bool:
        for kind in ("people", "meetings", "slots"):
            records = env.state[kind]
            old = next((v for v in arguments.values() if v in records), None)
            if old is not None:
                new = env.episode.rng.choice([i for n in range(100, 1000) if (i := f"{old[0]}{n}") not in records])
                # Rebuilt in the old order: where a record is in a list does not change with its id.
                env.state[kind] = {new if i == old else i: record for i, record in records.items()}
                return True
        return False

    def distort(self, env: Calendar, tool: str, arguments: dict[str, Json], value: Json) -> Json:
        if tool == "find_meeting":  # another topic of the same person
            others = [
                {"topic": m["topic"], "meeting_id": id}
                for id, m in env.state["meetings"].items()
                if m["name"] == arguments["person"] and m["topic"] != value["topic"]
            ]
            return env.episode.rng.choice(others) if others else None
        if tool == "find_person":
            people = env.state["people"].items()
            return env.episode.rng.choice(
                [{"name": p["name"], "person_id": id} for id, p in people if p["name"] != value["name"]]
            )
        return None

    def look(self, env: Calendar, tool: str, arguments: dict[str, Json]) -> tuple[str, dict[str, Json]] | None:
        id = next((arguments[name] for name in ("meeting_id", "slot_id", "id") if name in arguments), "")
        if id in env.state["meetings"]:
            return "get_meeting", {"meeting_id": id}
        slot = env.state["slots"].get(id)
        if slot is None:
            return None
        person_id = next(i for i, person in env.state["people"].items() if person["name"] == slot["name"])
        return "free_slots", {"person_id": person_id, "day": slot["day"]}


class Calendar(ToolEnv):
    """Keep a team's calendar: cancel and move meetings, book free slots, through tools that may fail.

    The world is a plain dict: people, meetings and slots by id, and an audit of all changes. Held out: nothing is
    trained here. Its results have the form that the order desk's have (an id stands *after* what it belongs to); its
    tools, names and tasks are others, so that success here shows what a policy has learnt beyond the desk.

    ## Tools
    `find_meeting`, `find_person`, `list_meetings`, `free_slots`, `get_meeting` read; `cancel_meeting`, `move_meeting`,
    `book`, `edit` write; `log_in`, `wait`. `find_meeting` and `find_person` + `list_meetings` are two routes to the
    same meeting; `edit` is the second route of every other write.

    ## Rewards
    1 when every goal is met and nothing else in the calendar changed; a change made twice is a failure.

    ## Episode End
    A message without a call, or the turn limit.

    ## Version History
    v0: first.
    """

    system = (
        "Keep the calendar with the tools, one call at a time. When all is done answer Done. "
        "If it cannot be done answer Cannot."
    )
    state: dict[str, Json]
    fault_hooks = _Faults()

    def tasks(self, split: Split, rng: random.Random) -> Iterable[Task]:
        return tasks(split, rng)

    def setup(self, task: Task, rng: random.Random) -> None:
        self.state = new_world(task, rng)

    # ---- tools -----------------------------------------------------------------------------------------------------

    @tool(alternative="find_person")
    def find_meeting(self, person: str, topic: str) -> Json:
        """Find a meeting by the person's name and the topic."""
        for meeting_id, meeting in self.state["meetings"].items():
            if (meeting["name"], meeting["topic"]) == (person, topic):
                return {"topic": topic, "meeting_id": meeting_id}
        raise NotFound(f"{person} has no {topic}")

    @tool
    def find_person(self, name_or_email: str) -> Json:
        """Find a person."""
        for person_id, person in self.state["people"].items():
            if name_or_email in (person["name"], person["email"]):
                return {"name": person["name"], "person_id": person_id}
        raise NotFound(f"no person {name_or_email}")

    @tool(alternative="find_meeting", ids=["person_id"])
    def list_meetings(self, person_id: str) -> Json:
        """List a person's meetings."""
        name = self._get("people", person_id)["name"]
        found = self.state["meetings"].items()
        return [{"topic": m["topic"], "meeting_id": meeting_id} for meeting_id, m in found if m["name"] == name]

    @tool(ids=["person_id"])
    def free_slots(self, person_id: str, day: str) -> Json:
        """List a person's free slots on a day."""
        name = self._get("people", person_id)["name"]
        found = self.state["slots"].items()
        return [
            {"time": slot["time"], "slot_id": slot_id}
            for slot_id, slot in found
            if (slot["name"], slot["day"], slot["bookings"]) == (name, day, 0)
        ]

    @tool(ids=["meeting_id"])
    def get_meeting(self, meeting_id: str) -> Json:
        """Read a meeting's status and room."""
        meeting = self._get("meetings", meeting_id)
        return {"meeting_id": meeting_id, "status": meeting["status"], "room": meeting["room"]}

    @tool(effect=True, alternative="edit", ids=["meeting_id"])
    def cancel_meeting(self, meeting_id: str) -> str:
        """Cancel a meeting."""
        self._open(meeting_id, "cancel")["status"] = "cancelled"
        return "cancelled"

    @tool(effect=True, alternative="edit", ids=["meeting_id"])
    def move_meeting(self, meeting_id: str, room: str) -> str:
        """Move a meeting to another room."""
        if room not in ROOMS:
            raise NotFound(f"no room {room}")
        self._open(meeting_id, "move")["room"] = room
        return "moved"

    @tool(effect=True, alternative="edit", ids=["slot_id"])
    def book(self, slot_id: str) -> str:
        """Book a slot."""
        slot = self._get("slots", slot_id)
        slot["bookings"] += 1  # nothing stops a second booking: whoever is not sure has to look
        self.state["audit"].append([f"{slot['name']}/{slot['day']} {slot['time']}", "book"])
        return "booked"

    @tool(effect=True, ids=["id"])
    def edit(self, id: str, change: str) -> str:
        """Set a meeting to cancelled or to a room, or a slot to booked."""
        if id in self.state["slots"]:
            if change != "booked":
                raise Conflict(f"a slot can be booked, not {change}")
            return self.book(id)
        return self.cancel_meeting(id) if change == "cancelled" else self.move_meeting(id, change)

    @tool(logs_in=True)
    def log_in(self) -> str:
        """Start a new session."""
        return "welcome"

    @tool(waits=True)
    def wait(self) -> str:
        """Let some time pass."""
        return "ok"

    # ---- the records -----------------------------------------------------------------------------------------------

    def _get(self, kind: str, id: str) -> Record:
        record: Record | None = self.state[kind].get(id)
        if record is None:
            raise NotFound(f"no such id {id}")
        return record

    def _open(self, meeting_id: str, change: str) -> Record:
        """A meeting that can still be changed, with the change noted."""
        meeting = self._get("meetings", meeting_id)
        if meeting["status"] == "cancelled":
            raise Conflict(f"{meeting_id} is cancelled")
        self.state["audit"].append([f"{meeting['name']}/{meeting['topic']}", change])
        return meeting

    # ---- verdict and expert ----------------------------------------------------------------------------------------

    def success(self, task: Task) -> bool:
        wanted = sorted(self._wanted(goal) for goal in task.data["goals"])
        rooms = {f"{m['name']}/{m['topic']}": m["room"] for m in self.state["meetings"].values()}
        moved = all(
            rooms[key] == goal["room"]
            for goal in task.data["goals"]
            for key, change in [self._wanted(goal)]
            if change == "move"
        )
        return moved and wanted == sorted(self.state["audit"])

    def solve(self, task: Task) -> Solution:
        for goal in task.data["goals"]:
            what, change = self._wanted(goal)
            if [what, change] in self.state["audit"]:
                continue
            id = yield from self._locate(goal)
            if id is None:
                yield "Cannot find it."
                return
            if goal["kind"] == "decide":
                yield "get_meeting", {"meeting_id": id}
            name, arguments, edit = {
                "cancel": ("cancel_meeting", {"meeting_id": id}, "cancelled"),
                "move": ("move_meeting", {"meeting_id": id, "room": goal["room"]}, goal["room"]),
                "book": ("book", {"slot_id": id}, "booked"),
            }[change]
            if self.episode.is_gone(name) or (yield name, arguments).outcome is Outcome.GONE:
                yield "edit", {"id": id, "change": edit}
        yield "Done."

    def _locate(self, goal: Record) -> Generator[tuple[str, Record], ToolResult, str | None]:
        """The id of the goal's meeting or slot, by the route that the instruction suggests, or by the other."""
        if goal["kind"] == "book" or goal["by_email"] or self.episode.is_gone("find_meeting"):
            who = f"{goal['name'].lower()}@team.org" if goal["by_email"] else goal["name"]
            person = yield "find_person", {"name_or_email": who}
            if not person.ok:
                return None
            person_id = person.value["person_id"]
            if goal["kind"] == "book":
                slots = yield "free_slots", {"person_id": person_id, "day": goal["day"]}
                return next((s["slot_id"] for s in slots.value or () if s["time"] == goal["time"]), None)
            if not self.episode.is_gone("list_meetings"):
                listed = yield "list_meetings", {"person_id": person_id}
                if listed.outcome is not Outcome.GONE:
                    return next((m["meeting_id"] for m in listed.value or () if m["topic"] == goal["topic"]), None)
        result = yield "find_meeting", {"person": goal["name"], "topic": goal["topic"]}
        if result.outcome is Outcome.GONE:
            return (yield from self._locate(goal))  # by the other route, now that it is known to be gone
        return result.value["meeting_id"] if result.ok else None

    def _wanted(self, goal: Record) -> list[str]:
        """What a goal adds to the audit."""
        if goal["kind"] == "book":
            return [f"{goal['name']}/{goal['day']} {goal['time']}", "book"]
        change = ("move" if goal["confirmed"] else "cancel") if goal["kind"] == "decide" else goal["kind"]
        return [f"{goal['name']}/{goal['topic']}", change]
