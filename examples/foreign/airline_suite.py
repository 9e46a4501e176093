"""A suite of tasks as one finds them: it knows nothing of Sparring. Check-in at an airline.

A `Desk` holds the world and has the tools as methods; `Phone` is what the passenger has. Each task is a list of what
the passenger says, one line after the other. When a passenger is checked in, the desk hands over to the gate: `rebook`
and `cancel` go, and `seat` comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

CITIES = {"Oslo": "f1", "Rome": "f2", "Bern": "f3", "Graz": "f4", "Lyon": "f5"}
PASSENGERS = ("Ada", "Ben", "Cora", "Dan", "Ella", "Finn", "Gus", "Hana")
SEATS = ("window", "aisle")


F = TypeVar("F", bound=Callable[..., Any])


def reads(method: F) -> F:
    """Marks a tool that looks."""
    setattr(method, "kind", "read")  # noqa: B010  # a function's type has no such attribute
    return method


def writes(method: F) -> F:
    """Marks a tool that changes the world."""
    setattr(method, "kind", "write")  # noqa: B010  # a function's type has no such attribute
    return method


def is_tool(method: object) -> bool:
    return hasattr(method, "kind")


def is_write(method: object) -> bool:
    return getattr(method, "kind", "") == "write"


class NoSuch(Exception):
    """A flight or booking that does not exist."""


class Refused(Exception):
    """What the rules do not allow."""


@dataclass
class Booking:
    passenger: str
    flight: str
    passport: bool = False
    checked_in: bool = False
    seat: str = ""


@dataclass
class Desk:
    """The world, and its tools."""

    bookings: dict[str, Booking]
    log: list[str] = field(default_factory=list)

    @reads
    def find_flight(self, city: str) -> dict[str, str]:
        """Find the flight to a city.

        Args:
            city: Its name, such as Oslo.
        """
        if city not in CITIES:
            raise NoSuch(f"no flight to {city}")
        return {"city": city, "flight": CITIES[city]}

    @reads
    def find_booking(self, passenger: str) -> dict[str, Any]:
        """Find a passenger's booking."""
        for number, booking in self.bookings.items():
            if booking.passenger == passenger:
                return {"passenger": passenger, "flight": booking.flight, "booking": number}
        raise NoSuch(f"no booking for {passenger}")

    @writes
    def rebook(self, booking: str, flight: str) -> str:
        """Move a booking to another flight."""
        held = self._held(booking)
        if flight not in CITIES.values():
            raise NoSuch(f"no flight {flight}")
        held.flight = flight
        return "rebooked"

    @writes
    def cancel(self, booking: str) -> str:
        """Cancel a booking."""
        self._held(booking)
        del self.bookings[booking]
        return "cancelled"

    @writes
    def check_in(self, booking: str) -> str:
        """Check a passenger in, once the passport is confirmed."""
        held = self._held(booking)
        if not held.passport:
            raise Refused("the passport is not confirmed")
        held.checked_in = True
        self.log.append(booking)
        return "checked in; the gate has taken over"

    @writes
    def seat(self, booking: str, where: Literal["window", "aisle"]) -> str:
        """Give a passenger a seat."""
        self._held(booking).seat = where
        return where

    def tools(self) -> list[str]:
        """What can be done now."""
        return ["find_flight", "find_booking", "check_in", *(["seat"] if self.log else ["rebook", "cancel"])]

    def _held(self, booking: str) -> Booking:
        if booking not in self.bookings:
            raise NoSuch(f"no booking {booking}")
        return self.bookings[booking]


class Phone:
    """What the passenger can do, on the same world."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def confirm_passport(self, passenger: str) -> str:
        """Confirm one's own passport."""
        self.desk.bookings[self.desk.find_booking(passenger)["booking"]].passport = True
        return "confirmed"


def fresh(task: dict[str, Any]) -> Desk:
    """The world as a task finds it."""
    others = [name for name in PASSENGERS if name != task["passenger"]][:3]
    names = [task["passenger"], *others]
    return Desk({f"b{10 + 7 * i}": Booking(name, task["from"]) for i, name in enumerate(sorted(names))})


def reference(desk: Desk, task: dict[str, Any], line: int) -> list[tuple[str, dict[str, Any]]]:
    """The calls that are still to be made after the passenger has said line `line`."""
    found = desk.find_booking(task["passenger"])
    number, held = found["booking"], desk.bookings[found["booking"]]
    calls: list[tuple[str, dict[str, Any]]] = [("find_booking", {"passenger": task["passenger"]})]
    if held.flight != CITIES[task["city"]] and not desk.log:
        calls += [("find_flight", {"city": task["city"]})]
        calls += [("rebook", {"booking": number, "flight": CITIES[task["city"]]})]
    if line >= 1 and not held.checked_in:
        calls += [("check_in", {"booking": number})]
    if line >= 2 and held.seat != task["seat"]:
        calls += [("seat", {"booking": number, "where": task["seat"]})]
    return calls if len(calls) > 1 else []


def grade(before: Desk, after: Desk, task: dict[str, Any]) -> tuple[bool, str, dict[str, float]]:
    """Whether a task is done, why not, and the parts that are."""
    held = next((b for b in after.bookings.values() if b.passenger == task["passenger"]), None)
    others = [{n: b for n, b in desk.bookings.items() if b.passenger != task["passenger"]} for desk in (before, after)]
    if held is None or others[0] != others[1]:
        return False, "a booking was lost, or somebody else's changed", dict.fromkeys(("flight", "in", "seat"), 0.0)
    parts = {
        "flight": held.flight == CITIES[task["city"]], "in": held.checked_in, "seat": held.seat == task["seat"]
    }  # fmt: skip
    missing = [name for name, done in parts.items() if not done]
    reason = f"not as it should be: {', '.join(missing)}" if missing else "all done"
    return not missing, reason, {name: done / 3 for name, done in parts.items()}


TASKS: list[dict[str, Any]] = [
    {
        "passenger": passenger, "from": start, "city": city, "seat": SEATS[(i + j) % 2],
        "lines": [
            f"I am {passenger}. Move me to the flight to {city}, please.",
            "I have confirmed my passport on my phone. Check me in.",
            f"And give me a seat at the {SEATS[(i + j) % 2]}.",
        ],
    }
    for i, passenger in enumerate(PASSENGERS)
    for j, city in enumerate(CITIES)
    for start in [CITIES[[c for c in CITIES if c != city][i % 4]]]
]  # fmt: skip
