"""`Orders`: the tools of the order desk, its verdict and its expert."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable
from dataclasses import replace

from ...tools import Conflict, NotFound, tool
from ...trajectories import Json, Outcome, Task, ToolResult
from ..env import Solution, ToolEnv
from ..facets import Fact, FaultHooks, KnobHooks
from ..task import Split
from .extras import DISTRACTORS, TRAPS
from .world import Desk, new_world, tasks

__all__ = ["Orders"]

Located = Generator[tuple[str, dict[str, Json]], ToolResult, dict[str, Json] | None]


class _Faults(FaultHooks):
    def rotate_id(self, env: Orders, tool: str, arguments: dict[str, Json]) -> bool:
        for column, table in (("order_id", "orders"), ("payment_id", "payments"), ("customer_id", "customers")):
            if column in arguments:
                known = {row[column] for row in env._all(f"SELECT {column} FROM {table}")}
                new = env.episode.rng.choice([i for n in range(100, 1000) if (i := f"{column[0]}{n}") not in known])
                query = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"
                return env.state.execute(query, (new, arguments[column])).rowcount == 1
        return False

    def distort(self, env: Orders, tool: str, arguments: dict[str, Json], value: Json) -> Json:
        if tool == "find_order":  # another item of the same customer
            others = [o for o in env._orders_of(arguments["customer"]) if o["item"] != value["item"]]
            return env.episode.rng.choice(others) if others else None
        if tool == "find_customer":
            query = "SELECT name, customer_id FROM customers WHERE customer_id != ? ORDER BY rowid"
            return env.episode.rng.choice(env._all(query, value["customer_id"]))
        return None

    def look(self, env: Orders, tool: str, arguments: dict[str, Json]) -> tuple[str, dict[str, Json]] | None:
        if "payment_id" in arguments:
            order = env._one(
                "SELECT order_id FROM orders JOIN payments ON order_row = orders.rowid WHERE payment_id = ?",
                arguments["payment_id"],
            )
            return ("get_order", {"order_id": order["order_id"]}) if order else None
        return ("get_order", {"order_id": arguments["order_id"]}) if "order_id" in arguments else None


class _Knobs(KnobHooks):
    distractors = DISTRACTORS
    traps = TRAPS

    def facts(self, env: Orders, task: Task) -> list[Fact]:
        """A goal's customer, item or address."""
        found = []
        for goal in task.data["goals"]:
            who = f"{goal['name'].lower()}@mail.com" if goal["by_email"] else goal["name"]
            found.append(Fact(who, "a customer", f"The customer is {who}."))
            found.append(Fact(goal["item"], "order", f"It is the {goal['item']}."))
            if goal["address"]:
                found.append(Fact(goal["address"], "the new address", f"The new address is {goal['address']}."))
        return found

    def spoil(self, env: Orders, task: Task, rng: random.Random) -> Task:
        """The same task, but one of its orders does not exist."""
        goals = [dict(goal) for goal in task.data["goals"]]
        rng.choice(goals)["absent"] = True
        return replace(task, data={**task.data, "goals": goals})


class Orders(ToolEnv):
    """Work an order desk: cancel, refund or readdress the orders of customers, through tools that may fail.

    The world is an SQLite database in memory, one per episode: customers, orders, items, payments, shipments and an
    audit of all changes. In every result the id stands *after* what it belongs to: copying what follows a match is what
    a small model learns first.

    ## Tools
    `find_order`, `find_customer`, `list_orders`, `get_order` read; `cancel_order`, `refund`, `set_address`,
    `set_status` write; `log_in`, `wait`. `find_order` and `find_customer` + `list_orders` are two routes to the same
    order; `set_status` is the second route of `cancel_order` and `refund`.

    ## Rewards
    1 when every goal is met and nothing else in the database changed; a change made twice is a failure.

    ## Episode End
    A message without a call, or the turn limit.

    ## Knobs
    `harder("orders", ...)` offers tools that no task needs, five that read and three that do harm; leaves a customer,
    an item or an address out of the instruction; asks for an order that does not exist.

    ## Version History
    v0: first.
    """

    system = (
        "Work the order desk with the tools, one call at a time. When all is done answer Done. "
        "If it cannot be done answer Cannot."
    )
    state: Desk
    fault_hooks = _Faults()
    knobs = _Knobs()

    def tasks(self, split: Split, rng: random.Random) -> Iterable[Task]:
        return tasks(split, rng)

    def setup(self, task: Task, rng: random.Random) -> None:
        self.state = new_world(task, rng)

    # ---- tools -----------------------------------------------------------------------------------------------------

    @tool(alternative="find_customer")
    def find_order(self, customer: str, item: str) -> Json:
        """Find an order by the customer's name and the item."""
        row = self._one(
            "SELECT item, order_id, payment_id FROM orders JOIN customers c ON c.rowid = customer JOIN items i ON"
            " i.order_row = orders.rowid JOIN payments p ON p.order_row = orders.rowid WHERE c.name = ? AND item = ?",
            customer,
            item,
        )
        if row is None:
            raise NotFound(f"{customer} has no {item}")
        return row

    @tool(alternative="find_order")
    def find_customer(self, name_or_email: str) -> Json:
        """Find a customer."""
        row = self._one("SELECT name, customer_id FROM customers WHERE ? IN (name, email)", name_or_email)
        if row is None:
            raise NotFound(f"no customer {name_or_email}")
        return row

    @tool(alternative="find_order", ids=["customer_id"])
    def list_orders(self, customer_id: str) -> Json:
        """List a customer's orders."""
        customer = self._one("SELECT name FROM customers WHERE customer_id = ?", customer_id)
        if customer is None:
            raise NotFound(f"no customer {customer_id}")
        return self._orders_of(customer["name"])

    @tool(ids=["order_id"])
    def get_order(self, order_id: str) -> Json:
        """Read an order's status and address."""
        order = self._order("order_id = ?", order_id)
        refunds = self._one("SELECT refunds FROM payments WHERE order_row = ?", order["rowid"])
        assert refunds is not None
        status = "refunded" if refunds["refunds"] else order["status"]
        return {"order_id": order_id, "status": status, "address": order["address"]}

    @tool(effect=True, alternative="set_status", ids=["order_id"])
    def cancel_order(self, order_id: str) -> str:
        """Cancel an open order."""
        self._cancel(self._order("order_id = ?", order_id))
        return "cancelled"

    @tool(effect=True, alternative="set_status", ids=["payment_id"])
    def refund(self, payment_id: str) -> str:
        """Pay back a shipped order."""
        payment = self._one("SELECT order_row FROM payments WHERE payment_id = ?", payment_id)
        if payment is None:
            raise NotFound(f"no payment {payment_id}")
        self._refund(self._order("rowid = ?", payment["order_row"]))
        return "refunded"

    @tool(effect=True, ids=["order_id"])
    def set_address(self, order_id: str, address: str) -> str:
        """Change the address of an open order."""
        order = self._order("order_id = ?", order_id)
        if order["status"] != "open":
            raise Conflict(f"{order_id} is {order['status']}")
        self.state.execute("UPDATE orders SET address = ? WHERE rowid = ?", (address, order["rowid"]))
        self._note(order, "address")
        return "changed"

    @tool(effect=True, ids=["order_id"])
    def set_status(self, order_id: str, status: str) -> str:
        """Set an order to cancelled or refunded."""
        order = self._order("order_id = ?", order_id)
        if status == "cancelled":
            self._cancel(order)
        elif status == "refunded":
            self._refund(order)
        else:
            raise Conflict(f"status is cancelled or refunded, not {status}")
        return status

    @tool(logs_in=True)
    def log_in(self) -> str:
        """Start a new session."""
        return "welcome"

    @tool(waits=True)
    def wait(self) -> str:
        """Let some time pass."""
        return "ok"

    # ---- the database ----------------------------------------------------------------------------------------------

    def _all(self, query: str, *values: Json) -> list[dict[str, Json]]:
        cursor = self.state.execute(query, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def _one(self, query: str, *values: Json) -> dict[str, Json] | None:
        rows = self._all(query, *values)
        return rows[0] if rows else None

    def _orders_of(self, customer: str) -> list[dict[str, Json]]:
        return self._all(
            "SELECT item, order_id, payment_id FROM orders JOIN customers c ON c.rowid = customer"
            " JOIN items i ON i.order_row = orders.rowid JOIN payments p ON p.order_row = orders.rowid"
            " WHERE c.name = ? ORDER BY orders.rowid",
            customer,
        )

    def _order(self, where: str, value: Json) -> dict[str, Json]:
        order = self._one(f"SELECT rowid, * FROM orders WHERE {where}", value)
        if order is None:
            raise NotFound(f"no order {value}")
        return order

    def _note(self, order: dict[str, Json], change: str) -> None:
        self.state.execute("INSERT INTO audit VALUES (?, ?)", (order["rowid"], change))

    # Neither of the two protects against being done twice, as real desks often do not: a blind retry pays twice.
    def _cancel(self, order: dict[str, Json]) -> None:
        if order["status"] == "shipped":
            raise Conflict(f"{order['order_id']} is shipped")
        self.state.execute("UPDATE orders SET status = 'cancelled' WHERE rowid = ?", (order["rowid"],))
        self._note(order, "cancel")

    def _refund(self, order: dict[str, Json]) -> None:
        if order["status"] != "shipped":
            raise Conflict(f"{order['order_id']} is {order['status']}")
        self.state.execute("UPDATE payments SET refunds = refunds + 1 WHERE order_row = ?", (order["rowid"],))
        self._note(order, "refund")

    # ---- verdict and expert ----------------------------------------------------------------------------------------

    def success(self, task: Task) -> bool:
        goals = [goal for goal in task.data["goals"] if not goal.get("absent")]
        wanted = sorted((self._row(goal), self._change(goal)) for goal in goals)
        done = sorted((row["order_row"], row["change"]) for row in self._all("SELECT order_row, change FROM audit"))
        if len(goals) < len(task.data["goals"]):  # what is there may be done or left: all of it cannot be done
            goals = [goal for goal in goals if self._done(goal)]
            wanted = sorted((self._row(goal), self._change(goal)) for goal in goals)
            if not self.episode.declined:
                return False
        addresses = all(
            self._order("rowid = ?", self._row(goal))["address"] == goal["address"]
            for goal in goals
            if goal["kind"] == "address"
        )
        return wanted == done and addresses

    def solve(self, task: Task) -> Solution:
        for goal in task.data["goals"]:
            if self._done(goal):
                continue
            found = yield from self._locate(goal)
            if found is None:
                yield "Cannot find it."
                return
            order_id, change = found["order_id"], self._change(goal)
            if goal["kind"] == "decide":
                yield "get_order", {"order_id": order_id}
            if change == "address":
                yield "set_address", {"order_id": order_id, "address": goal["address"]}
                continue
            name, ids = ("cancel_order", {"order_id": order_id})
            if change == "refund":
                name, ids = "refund", {"payment_id": found["payment_id"]}
            gone = self.episode.is_gone(name) or (yield name, ids).outcome is Outcome.GONE
            if gone:
                status = {"cancel": "cancelled", "refund": "refunded"}[change]
                yield "set_status", {"order_id": order_id, "status": status}
        yield "Done."

    def _locate(self, goal: dict[str, Json]) -> Located:
        """The goal's order by the route that the instruction suggests, or by the other when a tool is gone."""
        who = f"{goal['name'].lower()}@mail.com" if goal["by_email"] else goal["name"]
        if not goal["by_email"] and not self.episode.is_gone("find_order"):
            result = yield "find_order", {"customer": goal["name"], "item": goal["item"]}
            if result.outcome is not Outcome.GONE:
                return result.value if result.ok else None
        if not self.episode.is_gone("find_customer"):
            customer = yield "find_customer", {"name_or_email": who}
            if customer.ok and not self.episode.is_gone("list_orders"):
                listed = yield "list_orders", {"customer_id": customer.value["customer_id"]}
                if listed.ok:
                    return next((dict(o) for o in listed.value if o["item"] == goal["item"]), None)
        result = yield "find_order", {"customer": goal["name"], "item": goal["item"]}
        return result.value if result.ok else None

    def _row(self, goal: dict[str, Json]) -> int:
        row = self._one(
            "SELECT orders.rowid FROM orders JOIN customers c ON c.rowid = customer JOIN items i ON i.order_row ="
            " orders.rowid WHERE c.name = ? AND item = ?",
            goal["name"],
            goal["item"],
        )
        assert row is not None
        return int(row["rowid"])

    def _change(self, goal: dict[str, Json]) -> str:
        if goal["kind"] == "decide":
            return "refund" if goal["shipped"] else "cancel"
        return str(goal["kind"])

    def _done(self, goal: dict[str, Json]) -> bool:
        if goal.get("absent"):
            return False
        row = self._row(goal)
        done = self._one("SELECT 1 FROM audit WHERE order_row = ? AND change = ?", row, self._change(goal))
        return done is not None
