"""The facts of a problem: eight small tables of records, and the units that lengths and areas are measured in."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Literal, get_args

from ...trajectories.messages import Json

__all__ = ["NAMES", "Record", "Table", "Unit", "factor", "new_tables"]

Record = dict[str, Json]
Table = Literal["prices", "rooms", "floors", "machines", "routes", "projects", "receipts", "discounts"]
Unit = Literal["cm", "m", "km", "in", "ft", "yd", "mi", "m2", "ft2", "yd2"]

_METRES: dict[str, float] = {"cm": 0.01, "m": 1, "km": 1000, "in": 0.0254, "ft": 0.3048, "yd": 0.9144, "mi": 1609.344}
_AREAS: dict[str, float] = {"m2": 1, "ft2": 0.3048**2, "yd2": 0.9144**2}

NAMES: dict[str, tuple[str, ...]] = {
    "prices": tuple("brush candle cup fork jug lamp mug pen plate rope soap spoon stamp towel tray vase".split()),
    "rooms": tuple("attic cellar chapel gallery hall kitchen library lobby office studio study workshop".split()),
    "floors": tuple("ash bamboo beech birch cork granite linoleum marble oak pine slate walnut".split()),
    "machines": tuple("Atlas Bora Comet Delta Echo Falcon Gamma Hydra Iris Jade Krill Lotus".split()),
    "routes": tuple("Amber Blue Coast Dawn East Forest Green Harbour Island Jubilee North Orient".split()),
    "projects": tuple("Acorn Beacon Cedar Dune Ember Fjord Glacier Heron Ibis Juniper Kestrel Lagoon".split()),
    "receipts": tuple(f"R{number}" for number in range(11, 35)),
    "discounts": tuple("children clubs members neighbours nurses pupils retired staff students teachers".split()),
}
"""What may be looked up in each table."""
_RECORDS = 6
"""In each table."""


def factor(from_unit: str, to_unit: str) -> float | None:
    """What a figure in `from_unit` is multiplied with to be in `to_unit`; None where it cannot be."""
    for units in (_METRES, _AREAS):
        if from_unit in units and to_unit in units:
            return units[from_unit] / units[to_unit]
    return None


def _price(rng: random.Random) -> Record:
    return {"euros": rng.randrange(80, 3000) / 100, "pieces_per_box": rng.randrange(60, 400)}


def _room(rng: random.Random) -> Record:
    length, width = (rng.randrange(30, 250) / 10 for _ in range(2))
    return {"length": length, "width": width, "unit": rng.choice(("m", "ft"))}


def _floor(rng: random.Random) -> Record:
    return {"euros": rng.randrange(900, 6000) / 100, "per": rng.choice(("m2", "ft2"))}


def _machine(rng: random.Random) -> Record:
    return {
        "parts_per_hour": rng.randrange(12, 400), "service_every_days": rng.randrange(14, 120),
        "euros_per_day": rng.randrange(2000, 20000) / 100,
    }  # fmt: skip


def _route(rng: random.Random) -> Record:
    return {"distance": rng.randrange(40, 600), "unit": rng.choice(("km", "mi")), "km_per_hour": rng.randrange(50, 220)}


def _project(rng: random.Random) -> Record:
    start = date(2023, 1, 1) + timedelta(days=rng.randrange(700))
    return {"start": start.isoformat(), "end": (start + timedelta(days=rng.randrange(20, 500))).isoformat()}


def _discount(rng: random.Random) -> Record:
    return {"percent": rng.randrange(3, 45)}


_DRAW: Mapping[str, Callable[[random.Random], Record]] = {
    "prices": _price, "rooms": _room, "floors": _floor, "machines": _machine, "routes": _route, "projects": _project,
    "discounts": _discount,
}  # fmt: skip


def new_tables(wanted: Mapping[str, list[str]], rng: random.Random) -> tuple[dict[str, list[Record]], tuple[int, int]]:
    """All tables, with the records that are wanted among others; and the price of a chair and of a table in cents,
    which is in no table: the receipts are of these."""
    tables: dict[str, list[Record]] = {}
    chair, desk = rng.randrange(1500, 9000), rng.randrange(9000, 40000)
    for table in get_args(Table):
        named = wanted.get(table, [])
        names = named + rng.sample([name for name in NAMES[table] if name not in named], _RECORDS - len(named))
        rng.shuffle(names)
        if table == "receipts":
            pairs = rng.sample([(a, b) for a in range(1, 12) for b in range(1, 12)], _RECORDS)
            while any(a * d == b * c for i, (a, b) in enumerate(pairs) for c, d in pairs[:i]):
                pairs = rng.sample([(a, b) for a in range(1, 12) for b in range(1, 12)], _RECORDS)
            tables[table] = [
                {"name": name, "chairs": a, "tables": b, "euros": (a * chair + b * desk) / 100}
                for name, (a, b) in zip(names, pairs, strict=True)
            ]
        else:
            tables[table] = [{"name": name, **_DRAW[table](rng)} for name in names]
    return tables, (chair, desk)
