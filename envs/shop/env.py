"""`Shop`: a customer who has to be asked and may think again, and others who buy the same goods."""

from __future__ import annotations

import random
import zlib
from collections.abc import Generator, Iterable, Iterator

from ...tools import Conflict, NotFound, tool
from ...trajectories import Json, Outcome, Task, ToolResult
from ..env import Solution, ToolEnv
from ..facets import FaultHooks, Others, User
from ..task import Split

__all__ = ["Shop"]

GOODS = (
    "teapot", "mug", "plate", "bowl", "tray", "jug", "candle", "cushion", "blanket", "towel", "apron", "notebook",
    "pencil", "stapler", "lantern", "compass", "whistle", "kite", "puzzle", "yoyo", "marble", "puppet", "trumpet",
    "flute",
)  # fmt: skip
COLOURS = ("red", "blue", "green", "black")
STREETS = ("Ash", "Birch", "Cedar", "Dale", "Fern", "Glen", "Holly", "Ivy")

Record = dict[str, Json]


class _Customer(User):
    def reply(self, env: Shop, said: str) -> str | None:
        told, data, words = env.state["told"], env.episode.task.data, said.lower()
        if "address" in words and not told["address"]:
            told["address"] = True
            return f"{data['address']}."
        if "sold out" in words and env._sold_out() and data["second"] and not told["second"]:
            told["second"] = True
            env.state["wanted"] = data["second"]
            return f"Then a {data['colour']} {data['second']}."
        if data["change"] and not told["change"] and env._placed():
            told["change"] = True
            env.state["address"] = data["change"]
            return f"Sorry, send it to {data['change']}."
        return None


class _OtherBuyer(Others):
    def elapse(self, env: Shop) -> None:
        data = env.episode.task.data
        if data["sells_out"] and env.episode.tick == 1:  # somebody else was faster
            env._of(env.state["stock"], data["good"], data["colour"])["left"] = 0


class _Faults(FaultHooks):
    def rotate_id(self, env: Shop, tool: str, arguments: Record) -> bool:
        for kind in ("stock", "orders"):
            records = env.state[kind]
            old = next((v for v in arguments.values() if v in records), None)
            if old is not None:
                new = env.episode.rng.choice([i for n in range(100, 1000) if (i := f"{old[0]}{n}") not in records])
                env.state[kind] = {new if i == old else i: record for i, record in records.items()}
                for order in env.state["orders"].values():
                    order["item_id"] = new if order["item_id"] == old else order["item_id"]
                return True
        return False

    def distort(self, env: Shop, tool: str, arguments: Record, value: Json) -> Json:
        if tool != "search":
            return None
        stock = env.state["stock"].items()
        others = [{"good": item["good"], "item_id": id} for id, item in stock if item["good"] != arguments["good"]]
        return env.episode.rng.choice(others)

    def look(self, env: Shop, tool: str, arguments: Record) -> tuple[str, Record] | None:
        return "list_orders", {}


class Shop(ToolEnv):
    """Sell a customer what they want: they leave things out, think again, and others buy while you talk.

    The world is a plain dict: a stock of goods, orders, and what the customer has said so far. The customer speaks in
    the middle of an episode: a message without a call is said to them, and they answer a question, or bring up what
    they have changed their mind about. Another buyer takes goods while the agent works.

    ## Tools
    `search`, `list_goods`, `get_stock`, `list_orders` read; `order`, `cancel_order`, `change_address` write; `log_in`,
    `wait`. `search` and `list_goods` are two routes to an item.

    ## Rewards
    1 when, in the end, exactly the goods that the customer wants last are on order, for the address that they gave, and
    nothing was cancelled that they wanted.

    ## Episode End
    A message to which the customer has nothing to say, or the turn limit.

    ## Version History
    v0: first.
    """

    system = (
        "Serve the customer with the tools, one call at a time. Ask the customer what you need to know. When all is "
        "done answer Done. If it cannot be done answer Cannot."
    )
    state: Record
    user = _Customer()
    others = _OtherBuyer()
    fault_hooks = _Faults()

    def tasks(self, split: Split, rng: random.Random) -> Iterable[Task]:
        return _tasks(split, rng)

    def setup(self, task: Task, rng: random.Random) -> None:
        data = task.data
        wanted = [(data["good"], data["colour"])]
        wanted += [(data["second"], data["colour"])] if data["second"] else []
        others = [(g, c) for g in GOODS for c in COLOURS if (g, c) not in wanted and g != data["good"]]
        goods = wanted + rng.sample(others, 6)
        rng.shuffle(goods)
        ids = rng.sample(range(10, 100), len(goods))
        stock = {
            f"g{number}": {"good": good, "colour": colour, "left": rng.randrange(2, 6)}
            for number, (good, colour) in zip(ids, goods, strict=True)
        }
        if data["sells_out"]:
            self._of(stock, data["good"], data["colour"])["left"] = 1
        self.state = {
            "stock": stock,
            "orders": {},
            "told": {"address": bool(data["address_told"]), "second": False, "change": False},
            "wanted": data["good"],
            "address": data["address"],
            "cancelled": 0,
            "refused": False,
            "number": rng.randrange(100, 900),
        }

    # ---- tools -----------------------------------------------------------------------------------------------------

    @tool(alternative="list_goods")
    def search(self, good: str, colour: str) -> Json:
        """Find an item by good and colour."""
        for item_id, item in self.state["stock"].items():
            if (item["good"], item["colour"]) == (good, colour):
                return {"good": good, "item_id": item_id}
        raise NotFound(f"no {colour} {good}")

    @tool(alternative="search")
    def list_goods(self, colour: str) -> Json:
        """List the items of a colour."""
        stock = self.state["stock"].items()
        return [{"good": item["good"], "item_id": item_id} for item_id, item in stock if item["colour"] == colour]

    @tool(ids=["item_id"])
    def get_stock(self, item_id: str) -> Json:
        """How many of an item are left."""
        return {"item_id": item_id, "left": self._item(item_id)["left"]}

    @tool
    def list_orders(self) -> Json:
        """List this customer's orders."""
        return [
            {"good": self._item(o["item_id"])["good"], "address": o["address"], "order_id": order_id}
            for order_id, o in self.state["orders"].items()
        ]

    @tool(effect=True, ids=["item_id"])
    def order(self, item_id: str, address: str) -> Json:
        """Order an item for an address."""
        item = self._item(item_id)
        if not item["left"]:
            self.state["refused"] = True
            raise Conflict(f"{item_id} is sold out", hint="ask the customer")
        item["left"] -= 1
        self.state["number"] += 1
        order_id = f"o{self.state['number']}"
        self.state["orders"][order_id] = {"item_id": item_id, "address": address}
        return {"good": item["good"], "order_id": order_id}

    @tool(effect=True, ids=["order_id"])
    def cancel_order(self, order_id: str) -> str:
        """Cancel an order."""
        order = self._order(order_id)
        self._item(order["item_id"])["left"] += 1
        self.state["cancelled"] += self._right(order)
        del self.state["orders"][order_id]
        return "cancelled"

    @tool(effect=True, idempotent=True, ids=["order_id"])
    def change_address(self, order_id: str, address: str) -> str:
        """Change an order's address."""
        self._order(order_id)["address"] = address
        return "changed"

    @tool(logs_in=True)
    def log_in(self) -> str:
        """Start a new session."""
        return "welcome"

    @tool(waits=True)
    def wait(self) -> str:
        """Let some time pass."""
        return "ok"

    # ---- the records -----------------------------------------------------------------------------------------------

    def _item(self, item_id: str) -> Record:
        item: Record | None = self.state["stock"].get(item_id)
        if item is None:
            raise NotFound(f"no item {item_id}")
        return item

    def _order(self, order_id: str) -> Record:
        order: Record | None = self.state["orders"].get(order_id)
        if order is None:
            raise NotFound(f"no order {order_id}")
        return order

    def _of(self, stock: Record, good: str, colour: str) -> Record:
        return next(item for item in stock.values() if (item["good"], item["colour"]) == (good, colour))

    def _sold_out(self) -> bool:
        return not self._of(self.state["stock"], self.episode.task.data["good"], self.episode.task.data["colour"])[
            "left"
        ]

    def _right(self, order: Record) -> bool:
        """Whether an order is what the customer wants now, whatever its address."""
        item = self._item(order["item_id"])
        return (item["good"], item["colour"]) == (self.state["wanted"], self.episode.task.data["colour"])

    def _placed(self) -> bool:
        return any(self._right(order) for order in self.state["orders"].values())

    # ---- verdict and expert ----------------------------------------------------------------------------------------

    def success(self, task: Task) -> bool:
        orders = list(self.state["orders"].values())
        changed = self.state["told"]["change"] or not task.data["change"]
        return (
            len(orders) == 1
            and self._right(orders[0])
            and orders[0]["address"] == self.state["address"]
            and not self.state["cancelled"]
            and changed
        )

    def solve(self, task: Task) -> Solution:
        if not self.state["told"]["address"]:
            yield "Which address?"
        for order_id in [id for id, order in self.state["orders"].items() if not self._right(order)]:
            yield "cancel_order", {"order_id": order_id}
        if not self._placed():
            if self.state["refused"] and self._sold_out() and self.state["wanted"] == task.data["good"]:
                yield "It is sold out. What else?"
            item_id = yield from self._find(self.state["wanted"], task.data["colour"])
            if item_id is None:
                yield "Cannot find it."
                return
            yield "order", {"item_id": item_id, "address": self.state["address"]}
        for order_id, order in list(self.state["orders"].items()):
            if order["address"] != self.state["address"]:
                yield "change_address", {"order_id": order_id, "address": self.state["address"]}
        yield "Done."

    def _find(self, good: str, colour: str) -> Generator[tuple[str, Record], ToolResult, str | None]:
        if not self.episode.is_gone("search"):
            found = yield "search", {"good": good, "colour": colour}
            if found.outcome is not Outcome.GONE:
                return found.value["item_id"] if found.ok else None
        listed = yield "list_goods", {"colour": colour}
        return next((i["item_id"] for i in listed.value or () if i["good"] == good), None)


def _split_of(good: str, colour: str) -> Split:
    bucket = zlib.crc32(f"{good}/{colour}".encode()) % 10
    return "test" if bucket in (0, 1) else "validation" if bucket == 2 else "train"


def _tasks(split: Split, rng: random.Random) -> Iterator[Task]:
    """Endless, levels in turn. Level 1: all is said at once (3 turns). 2: the address has to be asked for (4).
    3: what is wanted sells out meanwhile (6). 4: the address has to be asked for and changes, too (9)."""
    pairs = [(good, colour) for good in GOODS for colour in COLOURS if _split_of(good, colour) == split]
    level = 0
    while True:
        level = level % 4 + 1
        good, colour = rng.choice(pairs)
        second = rng.choice([g for g in GOODS if g != good]) if level >= 3 else ""
        address, change = (f"{rng.randrange(1, 100)} {rng.choice(STREETS)} Rd" for _ in range(2))
        told = level in (1, 3)
        where = f", to {address}" if told else ""
        text = rng.choice(("I want a {what}{where}.", "A {what}, please{where}.", "Please order a {what}{where}."))
        data = {
            "good": good, "colour": colour, "second": second, "address": address, "address_told": told,
            "sells_out": level >= 3, "change": change if level == 4 else "",
        }  # fmt: skip
        yield Task(
            text.format(what=f"{colour} {good}", where=where), data, seed=rng.randrange(2**31), kind="buy", level=level
        )
