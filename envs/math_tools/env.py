"""`MathTools`: its tools, its verdict and its expert."""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Iterable
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field

from ...tools import InvalidArguments, NotFound, ToolError, tool
from ...tools.builtin import calculator
from ...trajectories import Json, Task
from ..env import Solution, ToolEnv
from ..experts import Asked, ask
from ..facets import FaultHooks
from ..rewards import Ended, numeric_answer
from ..task import Split
from .problems import PROBLEMS, tasks, wanted
from .world import Record, Table, Unit, factor, new_tables

__all__ = ["Expert", "MathTools"]

Operation = Literal["add", "subtract", "multiply", "divide", "remainder", "gcd"]
Equation = Annotated[list[float], Field(min_length=3, max_length=3)]

_CALCULATOR = calculator()
_EPOCH = date(2000, 1, 1)
_OPERATIONS: dict[type[ast.operator], Operation] = {
    ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide", ast.Mod: "remainder",
}  # fmt: skip


class _Faults(FaultHooks):
    def distort(self, env: MathTools, tool: str, arguments: dict[str, Json], value: Json) -> Json:
        if tool == "look_up":  # another record of the table
            return env.episode.rng.choice(
                [r for r in env.records(arguments["table"]) if r["name"] != arguments["name"]]
            )
        if tool == "read_table":
            return env.records(env.episode.rng.choice([t for t in env.state["tables"] if t != arguments["table"]]))
        if tool in ("convert", "unit_factor"):  # into another unit
            source = arguments["from_unit"]
            units = [
                u for u in ("cm", "in", "ft2", "yd2") if factor(source, u) and u not in (source, arguments["to_unit"])
            ]
            other = {**arguments, "to_unit": env.episode.rng.choice(units)}
            return getattr(env, tool)(**other)
        return None

    def look(self, env: MathTools, tool: str, arguments: dict[str, Json]) -> tuple[str, dict[str, Json]] | None:
        return ("get_answer", {}) if tool == "answer" else None


class MathTools(ToolEnv):
    """Work out word problems: look the facts up, compute with tools, give the figure.

    The world is a plain dict of small tables: prices, rooms, floors, machines, routes, projects, receipts, discounts.
    No figure of a table is in the problem, and no result can be guessed. Units differ from record to record.

    ## Tools
    `look_up`, `read_table` give facts; `calculator`, `operate`, `convert`, `unit_factor`, `date_difference`,
    `day_number`, `solve_linear` compute; `get_answer` reads; `answer` gives the answer, and the last one counts;
    `log_in`, `wait`. Second routes: `read_table` of `look_up`, `operate` of `calculator`, `unit_factor` of `convert`,
    `day_number` of `date_difference`, `calculator` of `solve_linear`.

    ## Rewards
    1 when the answer is the right figure, to half a hundredth.

    ## Episode End
    A message without a call, or the turn limit.

    ## Version History
    v0: first.
    """

    system = (
        "Work out the problem with the tools, one call at a time. Look the facts up, compute, give the figure with the "
        "tool answer. Then say Done. If it cannot be done say Cannot."
    )
    max_turns = 32
    state: Record
    fault_hooks = _Faults()

    def tasks(self, split: Split, rng: random.Random) -> Iterable[Task]:
        return tasks(split, rng)

    def setup(self, task: Task, rng: random.Random) -> None:
        tables, cents = new_tables(wanted(task), rng)
        self.state = {"tables": tables, "cents": list(cents), "answer": None}

    # ---- tools -----------------------------------------------------------------------------------------------------

    @tool(alternative="read_table")
    def look_up(self, table: Table, name: str) -> Json:
        """Look one record up by its name."""
        return self.record(table, name)

    @tool
    def read_table(self, table: Table) -> Json:
        """Read all records of a table."""
        return self.records(table)

    @tool(alternative="operate")
    def calculator(self, expression: str) -> Json:
        """Compute an expression such as round(2 * (3 + 4.5) / gcd(12, 18), 2)."""
        try:
            return _CALCULATOR.fn(expression=expression)
        except InvalidArguments as error:  # its argument is a text, as its schema says; it cannot be computed
            raise ToolError(str(error), hint=error.hint) from None

    @tool(alternative="calculator")
    def operate(self, operation: Operation, a: float, b: float) -> Json:
        """One operation on two numbers."""
        if operation in ("divide", "remainder") and not b:
            raise ToolError("division by zero")
        if operation == "gcd" and not (float(a).is_integer() and float(b).is_integer()):
            raise ToolError("gcd is of whole numbers")
        match operation:
            case "add":
                return _shown(a + b)
            case "subtract":
                return _shown(a - b)
            case "multiply":
                return _shown(a * b)
            case "divide":
                return _shown(a / b)
            case "remainder":
                return _shown(a % b)
        return _shown(math.gcd(int(a), int(b)))

    @tool(alternative="unit_factor")
    def convert(self, value: float, from_unit: Unit, to_unit: Unit) -> Json:
        """Convert a length or an area."""
        return {"value": _shown(value * self._factor(from_unit, to_unit), 6), "unit": to_unit}

    @tool(alternative="convert")
    def unit_factor(self, from_unit: Unit, to_unit: Unit) -> Json:
        """How many of one unit make one of another."""
        return {"factor": float(f"{self._factor(from_unit, to_unit):.12g}"), "from": from_unit, "to": to_unit}

    @tool(alternative="day_number")
    def date_difference(self, start: date, end: date) -> int:
        """Days from start to end (end minus start)."""
        return (end - start).days

    @tool(alternative="date_difference")
    def day_number(self, day: date) -> int:
        """Days from 2000-01-01 to a day."""
        return (day - _EPOCH).days

    @tool(alternative="calculator")
    def solve_linear(self, first: Equation, second: Equation) -> Json:
        """Solve two equations a*x + b*y = c, each given as [a, b, c]."""
        (a, b, c), (d, e, f) = first, second
        below = a * e - b * d
        if abs(below) < 1e-9:
            raise ToolError("no single solution")
        return {"x": _shown((c * e - b * f) / below, 6), "y": _shown((a * f - c * d) / below, 6)}

    @tool(effect=True, idempotent=True)
    def answer(self, answer: float | str) -> str:
        """Give the answer, a number."""
        self.state["answer"] = answer
        return "noted"

    @tool
    def get_answer(self) -> Json:
        """Read the answer that was given."""
        return {"answer": self.state["answer"]}

    @tool(logs_in=True)
    def log_in(self) -> str:
        """Start a new session."""
        return "welcome"

    @tool(waits=True)
    def wait(self) -> str:
        """Let some time pass."""
        return "ok"

    # ---- the facts -------------------------------------------------------------------------------------------------

    def record(self, table: str, name: str) -> Record:
        """A record by its name. Raises `NotFound`."""
        for record in self.records(table):
            if record["name"] == name:
                return record
        raise NotFound(f"no {name} in {table}")

    def records(self, table: str) -> list[Record]:
        """All records of a table."""
        records: list[Record] = self.state["tables"][table]
        return records

    @property
    def chair_and_table(self) -> tuple[float, float]:
        """What a chair and a table cost, in euros: to be found out from two receipts."""
        chair, table = self.state["cents"]
        return chair / 100, table / 100

    def _factor(self, from_unit: str, to_unit: str) -> float:
        found = factor(from_unit, to_unit)
        if found is None:
            raise ToolError(f"{from_unit} cannot be converted to {to_unit}")
        return found

    # ---- verdict and expert ----------------------------------------------------------------------------------------

    def success(self, task: Task) -> bool:
        given = self.state["answer"]
        if given is None:
            return False
        right = PROBLEMS[task.data["problem"]].result(self, task.data["params"])
        term = numeric_answer(lambda _: right, rel=0, abs=0.0051)
        return term(Ended(task, False, None, None, (), str(given), None)) == 1.0

    def solve(self, task: Task) -> Solution:
        try:
            if not self.success(task):
                figure = yield from PROBLEMS[task.data["problem"]].course(Expert(self), task.data["params"])
                yield "answer", {"answer": figure}
            yield "Done."
        except (LookupError, TypeError, ValueError, SyntaxError):  # a result of which nothing can be made
            yield "Cannot work it out."


class Expert:
    """The steps of `problems.Steps`, each by the route that is left. Raises `LookupError`, `TypeError` or `ValueError`
    for a result that is not what was asked for."""

    def __init__(self, env: MathTools) -> None:
        self.env = env

    def fact(self, table: str, name: str) -> Asked:
        found = yield from ask(self.env, "look_up", {"table": table, "name": name}, lambda v: v["name"] == name)
        if found is not None:
            return found
        records = yield from self.all_of(table)
        return next((r for r in records if r["name"] == name), None) or _missing(name)

    def all_of(self, table: str) -> Asked:
        known = set(self.env.records(table)[0])
        return (yield from ask(self.env, "read_table", {"table": table}, lambda v: set(v[0]) == known))

    def compute(self, expression: str) -> Asked:
        found = yield from ask(self.env, "calculator", {"expression": expression}, _is_number)
        if found is not None:
            return found
        return (yield from self._step_by_step(ast.parse(expression, mode="eval").body))

    def converted(self, value: float, from_unit: str, to_unit: str) -> Asked:
        units = {"from_unit": from_unit, "to_unit": to_unit}
        found = yield from ask(self.env, "convert", {"value": value, **units}, lambda v: v["unit"] == to_unit)
        if found is not None:
            return found["value"]
        found = yield from ask(self.env, "unit_factor", units, lambda v: v["to"] == to_unit)
        return (yield from self.compute(f"{value} * {found['factor']}"))

    def days(self, start: str, end: str) -> Asked:
        found = yield from ask(self.env, "date_difference", {"start": start, "end": end}, _is_number)
        if found is not None:
            return found
        first = yield from ask(self.env, "day_number", {"day": start}, _is_number)
        last = yield from ask(self.env, "day_number", {"day": end}, _is_number)
        return (yield from self.compute(f"{last} - {first}"))

    def solved(self, first: list[float], second: list[float]) -> Asked:
        found = yield from ask(
            self.env, "solve_linear", {"first": first, "second": second}, lambda v: {"x", "y"} <= set(v)
        )
        if found is not None:
            return found["x"], found["y"]
        (a, b, c), (d, e, f) = first, second
        x = yield from self.compute(f"({c} * {e} - {b} * {f}) / ({a} * {e} - {b} * {d})")
        y = yield from self.compute(f"({a} * {f} - {c} * {d}) / ({a} * {e} - {b} * {d})")
        return x, y

    def _step_by_step(self, node: ast.expr) -> Asked:
        """An expression's value by one `operate` for each of its operations; it is not rounded."""
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Call(func=ast.Name(id="round"), args=[inner, _]):
                return (yield from self._step_by_step(inner))
            case ast.Call(func=ast.Name(id="gcd"), args=[left, right]):
                operation: Operation = "gcd"
            case ast.BinOp(left=left, op=op, right=right):
                operation = _OPERATIONS[type(op)]
            case _:
                raise ValueError(ast.unparse(node))
        a = yield from self._step_by_step(left)
        b = yield from self._step_by_step(right)
        return (yield from ask(self.env, "operate", {"operation": operation, "a": a, "b": b}, _is_number))


def _shown(value: float, digits: int = 9) -> float:
    """A result as the agent sees it: rounded, without a fraction where it has none. Raises `ToolError`."""
    if not abs(value) < 1e300:  # infinite, or no number
        raise ToolError("the result is too large")
    value = float(value)
    return int(value) if value.is_integer() and abs(value) < 2**53 else round(value, digits)


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, float))


def _missing(what: str) -> Any:
    raise LookupError(what)
