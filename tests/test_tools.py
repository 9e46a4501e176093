"""Tools: schemas from type hints and docstrings, the outcomes of calls, and the parsing of sampled text."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import gc
import json
import math
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import orjson
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from no_world import World

from sparring.envs import ToolEnv
from sparring.envs.spaces import sample_json
from sparring.tools import (
    Conflict,
    Forbidden,
    Gone,
    Injected,
    NotFound,
    RateLimited,
    Tool,
    Toolbox,
    ToolError,
    ToolTimeout,
    Unauthenticated,
    Unavailable,
    merge,
    methods,
    parse_call,
    tool,
    tools_of,
    toolset,
)
from sparring.tools.calls import MAX_CALL_BYTES, MAX_DEPTH
from sparring.trajectories import Cause, EnvError, Outcome, Task, ToolCall, ToolResult, ToolSpec, UnknownName


class Size(enum.Enum):
    SMALL = "S"
    LARGE = "L"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Address(pydantic.BaseModel):
    street: str
    number: Annotated[int, pydantic.Field(ge=1)]


def parameters(fn: Callable[..., Any]) -> dict[str, Any]:
    return Tool.from_function(fn).spec.parameters


def toolbox(*functions: Callable[..., Any], effect: bool = False, **options: Any) -> Toolbox:
    return Toolbox([Tool.from_function(f, effect=effect) for f in functions], World(), **options)


def run(box: Toolbox, name: str, /, **arguments: Any) -> ToolResult:
    return box.execute(ToolCall(name, arguments))[1]


def shout(text: str, times: int = 1) -> str:
    """Say it loudly."""
    return text.upper() * times


# ---- schemas --------------------------------------------------------------------------------------------------------


def test_a_schema_comes_from_hints_and_docstring() -> None:
    def order(item: str, count: int = 1, speed: Literal["slow", "fast"] = "slow", note: str | None = None) -> None:
        """Order an item.

        From the store.

        Args:
            item: What to order.
            count: How many.
        """

    spec = Tool.from_function(order).spec
    assert spec.name == "order"
    assert spec.description == "Order an item. From the store."
    assert spec.parameters == {
        "type": "object",
        "properties": {
            "item": {"description": "What to order.", "type": "string"},
            "count": {"default": 1, "description": "How many.", "type": "integer"},
            "speed": {"default": "slow", "enum": ["slow", "fast"], "type": "string"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["item"],
        "additionalProperties": False,
    }
    assert spec.openai()["function"]["parameters"] is spec.parameters


@pytest.mark.parametrize(
    "doc",
    [
        "Go.\n\nParameters\n----------\nx : int\n    How far.\n",
        "Go.\n\n:param x: How far.\n",
        "Go.\n\nArgs:\n    x: How far.\n",
    ],
    ids=["numpy", "rest", "google"],
)
def test_docstring_styles(doc: str) -> None:
    def go(x: int) -> None: ...

    go.__doc__ = doc
    assert parameters(go)["properties"]["x"]["description"] == "How far."


def test_lists_enums_dataclasses_and_models_arrive_as_python_values() -> None:
    got: list[Any] = []

    def take(names: list[str], size: Size, point: Point, home: Address, when: datetime.date) -> str:
        """Take all."""
        got.append((names, size, point, home, when))
        return "ok"

    made = Tool.from_function(take)
    properties = made.spec.parameters["properties"]
    assert properties["names"] == {"type": "array", "items": {"type": "string"}}
    assert made.spec.parameters["$defs"]["Size"] == {"enum": ["S", "L"], "type": "string"}
    result = run(
        Toolbox([made], World()),
        "take",
        names=["a"],
        size="L",
        point={"x": 1},
        home={"street": "Elm", "number": 2},
        when="2026-01-31",
    )
    assert result.ok, result
    home = Address(street="Elm", number=2)
    assert got == [(["a"], Size.LARGE, Point(1), home, datetime.date(2026, 1, 31))]


def test_what_only_the_type_can_refuse_is_an_invalid_argument() -> None:
    def on(day: datetime.date) -> str:
        """Say a day."""
        return day.isoformat()

    result = run(toolbox(on), "on", day="yesterday")
    assert result.outcome is Outcome.INVALID_ARGUMENTS
    assert "day" in result.content
    assert result.cause is Cause.POLICY


def test_a_pydantic_error_in_the_body_is_the_tools_own() -> None:
    def parse(text: str) -> str:
        """Parse a text."""
        return str(Address.model_validate_json(text))

    assert run(toolbox(parse), "parse", text="{}").outcome is Outcome.TOOL_ERROR


def test_parameter_names_that_pydantic_knows_too() -> None:
    def put(copy: bool, json: str, schema: int, model_name: str) -> str:
        """Put something."""
        return f"{copy} {json} {schema} {model_name}"

    assert run(toolbox(put), "put", copy=True, json="j", schema=1, model_name="m").content == "True j 1 m"


def untyped(title) -> None:  # type: ignore[no-untyped-def]
    """Find a title."""


def undocumented(title: str) -> None: ...


def starred(*titles: str) -> None:
    """Find titles."""


def positional(title: str, /) -> None:
    """Find a title."""


def reserved(_title: str) -> None:
    """Find a title."""


def field(title: str = pydantic.Field(max_length=3)) -> None:
    """Find a title."""


def misfit(title: Annotated[str, pydantic.Field(pattern="(")]) -> None:
    """Find a title."""


def strange(title: threading.Lock) -> None:  # type: ignore[name-defined]  # noqa: F821  # the name is missing on purpose
    """Find a title."""


def opaque(title: np.random.Generator) -> None:
    """Find a title."""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (untyped, r"'title' has no type hint; write `title: str`"),
        (undocumented, "no docstring; say in one line"),
        (starred, "name each parameter"),
        (positional, "take the `/`"),
        (reserved, "needs another name"),
        (field, "write `title: Annotated"),
        (misfit, "cannot be used"),
        (functools.partial(starred), "give .name, callable, JSON Schema."),
        (dict, "."),
        (strange, "cannot be resolved"),
        (opaque, "no JSON Schema"),
    ],
)
def test_a_tool_that_is_defined_wrongly_says_how_to_fix_it(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(EnvError, match=message):
        Tool.from_function(function)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "thing"}, "wrong JSON Schema"),
        ({"type": "array"}, "arguments come by name"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}, "does not exist"),
        ({"type": "object", "properties": {"a": {"$ref": "https://example.org/a.json"}}}, "Retrieval is disabled"),
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}, "regex"),
        ({"type": "object", "properties": {"a": {"minimum": "0"}}}, "wrong JSON Schema"),
        ({"type": "object", "properties": []}, "wrong JSON Schema"),
        ({"type": "object", "required": "a"}, "wrong JSON Schema"),
        ([], "wrong JSON Schema"),
    ],
    ids=str,
)
def test_a_wrong_schema_is_refused(schema: Any, message: str) -> None:
    with pytest.raises(EnvError, match=message):
        Tool(ToolSpec("f", "F.", schema), lambda: None)
    with pytest.raises(EnvError, match=message):
        toolset(Tool.from_schema("f", lambda: None, schema, description="F.")) if schema else toolset(
            Tool(ToolSpec("f", "F.", schema), lambda: None)
        )


TUPLE = {"type": "array", "items": [{"type": "number"}, {"type": "string"}]}
ABOVE = {"type": "integer", "minimum": 0, "exclusiveMinimum": True}
LONG = "^.{0,262144}$"
OLD = "http://json-schema.org/draft-0{}/schema#"
NEW = "https://json-schema.org/draft/{}/schema"


@pytest.mark.parametrize(
    ("draft", "shown", "right", "wrong"),
    [
        (OLD.format(7), TUPLE, [1, "a"], ["a", 1]),
        (OLD.format(7).rstrip("#"), TUPLE, [1, "a"], ["a", 1]),
        (OLD.format(7).replace("http:", "https:"), TUPLE, [1, "a"], ["a", 1]),
        (OLD.format(6), TUPLE, [1, "a"], ["a", 1]),
        (OLD.format(4), ABOVE, 1, 0),
        (NEW.format("2019-09"), TUPLE, [1, "a"], ["a", 1]),
        (NEW.format("2020-12"), {"prefixItems": [{"type": "number"}]}, [1], ["a"]),
        (OLD.format(7), {"prefixItems": [{"type": "number"}], "type": "array"}, ["a"], 1),  # no keyword of draft 7
        (None, TUPLE, [1, "a"], ["a", 1]),
        (None, ABOVE, 1, 0),
        (None, {"prefixItems": [{"type": "number"}]}, [1], ["a"]),
        ("https://example.org/our-own", TUPLE, [1, "a"], ["a", 1]),
    ],
)
def test_the_draft_that_a_schema_declares_is_followed(draft: str | None, shown: Any, right: Any, wrong: Any) -> None:
    schema = {"type": "object", "properties": {"at": shown}, **({"$schema": draft} if draft else {})}
    box = Toolbox(toolset(("go", lambda at: "gone", {**schema, "description": "Go."})), World())
    assert run(box, "go", at=right).ok
    assert run(box, "go", at=wrong).outcome is Outcome.INVALID_ARGUMENTS


@pytest.mark.parametrize(
    ("draft", "shown"), [(NEW.format("2020-12"), TUPLE), (OLD.format(7), ABOVE), (OLD.format(3), {}), (7, {})]
)
def test_a_schema_that_breaks_its_own_draft_is_refused(draft: Any, shown: Any) -> None:
    with pytest.raises(EnvError, match="wrong JSON Schema"):
        toolset(
            ("go", lambda: "", {"type": "object", "properties": {"at": shown}, "$schema": draft, "description": "G"})
        )


def test_a_pattern_that_the_validator_cannot_use_is_not_checked(caplog: pytest.LogCaptureFixture) -> None:
    schema = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "pattern": LONG},
            "pattern": {"const": {"pattern": LONG}},
            "map": {"patternProperties": {LONG: {}, "^n": {"type": "integer"}}, "additionalProperties": False},
        },
        "description": "Go.",
    }
    made = Tool.from_schema("go", lambda **_: "gone", schema)
    assert LONG in caplog.text
    assert made.spec.parameters["properties"]["text"]["pattern"] == LONG
    box = Toolbox([made], World())
    right: dict[str, Any]
    for right in ({"text": "a"}, {"pattern": {"pattern": LONG}}, {"map": {"a": "b", "n": 1}}):
        assert run(box, "go", **right).ok
    wrong: dict[str, Any]
    for wrong in ({"text": 1}, {"pattern": {}}, {"map": {"n": "b"}}):
        assert run(box, "go", **wrong).outcome is Outcome.INVALID_ARGUMENTS


def test_a_schema_nested_beyond_reason_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100_000):
        schema = {"not": schema}
    with pytest.raises(EnvError, match="wrong JSON Schema"):
        Tool(ToolSpec("f", "F.", {"type": "object", "properties": {"a": schema}}), lambda: None)
    while schema:  # so that Python need not take it down in one recursion
        schema = schema["not"]


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_deadline_is_some_seconds(seconds: float) -> None:
    with pytest.raises(EnvError, match="deadline"):
        Tool.from_function(shout, deadline=seconds)


# ---- types ----------------------------------------------------------------------------------------------------------


class Line(typing.TypedDict):
    item: str
    count: Annotated[int, pydantic.Field(ge=1)]


class Basket(typing.TypedDict, total=False):
    lines: typing.Required[list[Line]]
    size: Size
    notes: dict[str, Line | None]


class Node(pydantic.BaseModel):
    name: str
    inner: list[Node] = []


def test_typed_dicts() -> None:
    def buy(basket: Basket) -> Any:
        """Buy."""
        return [type(basket).__name__, basket["lines"], basket.get("size")]

    box = toolbox(buy)
    schema = box.specs[0].parameters["$defs"]
    assert schema["Basket"]["required"] == ["lines"]
    assert schema["Line"]["properties"]["count"] == {"minimum": 1, "type": "integer"}
    assert run(box, "buy", basket={"lines": [{"item": "a", "count": 2}], "size": "L"}).value == [
        "dict",
        [{"item": "a", "count": 2}],
        "L",
    ]
    for wrong in ({}, {"lines": [{"item": "a"}]}, {"lines": [{"item": "a", "count": 0}]}, {"lines": [], "size": "M"}):
        assert run(box, "buy", basket=wrong).outcome is Outcome.INVALID_ARGUMENTS


def test_models_that_hold_themselves() -> None:
    def grow(node: Node) -> int:
        """Grow."""
        return 1 + sum(map(grow, node.inner))

    box = toolbox(grow)
    assert run(box, "grow", node={"name": "a", "inner": [{"name": "b"}, {"name": "c"}]}).value == 3
    assert run(box, "grow", node={"name": "a", "inner": [{}]}).outcome is Outcome.INVALID_ARGUMENTS


@pytest.mark.parametrize(
    ("hint", "given", "got"),
    [
        (int, 2.0, 2), (int | None, 2.0, 2), (list[int], [2.0], [2]), (dict[int, str], {"1": "a"}, {1: "a"}),
        (Annotated[int, pydantic.Field(ge=1)], 1e15, 10**15), (int | str, "2", "2"), (float, 2, 2), (float, 2.5, 2.5),
        (Literal[1, "a"], 1, 1), (tuple[int, str], [1, "a"], (1, "a")), (set[str], ["a"], {"a"}),
        (typing.Optional[Point], {"x": 1}, Point(1)), (typing.Optional[Point], None, None),  # noqa: UP045  # both forms
        (Point | Address, {"street": "a", "number": 1}, Address(street="a", number=1)),
        (dict[str, Any], {"a": 1.0}, {"a": 1.0}),
        (Size | None, "S", Size.SMALL), (list[Size], ["S", "L"], [Size.SMALL, Size.LARGE]),
        (datetime.datetime, "2026-01-31T12:00:00Z", datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)),
    ],
    ids=str,
)  # fmt: skip
def test_the_body_gets_values_of_its_types(hint: Any, given: Any, got: Any) -> None:
    values: list[Any] = []

    def take(value: Any) -> None:
        """Take a value."""
        values.append(value)

    take.__annotations__["value"] = hint
    result = run(toolbox(take), "take", value=given)
    assert result.ok, result
    assert values == [got]
    assert type(values[0]) is type(got)


def test_where_a_description_comes_from() -> None:
    def take(
        a: Annotated[int, pydantic.Field(description="From the field.", ge=1)],
        b: Annotated[int, pydantic.Field(description="From the field.")],
        c: dict[str, str] = {"title": "kept"},  # noqa: B006  # never changed
        d: Any = np.random.default_rng,  # no JSON: the model is not shown it
    ) -> Any:
        """Take.

        Args:
            b: From the docstring.
        """
        return d is np.random.default_rng

    properties = parameters(take)["properties"]
    assert properties["a"] == {"description": "From the field.", "minimum": 1, "type": "integer"}
    assert properties["b"]["description"] == "From the docstring."
    assert properties["c"]["default"] == {"title": "kept"}
    assert "default" not in properties["d"]
    assert run(toolbox(take), "take", a=1, b=1).value is True


# ---- many sources, many forms ---------------------------------------------------------------------------------------


class Counter:
    """An object with tools."""

    def __init__(self) -> None:
        self.n = 0

    @tool(effect=True)
    def add(self, n: int) -> int:
        """Add."""
        self.n += n
        return self.n

    @staticmethod
    @tool
    def zero() -> int:
        """Zero."""
        return 0

    @classmethod
    @tool
    async def name(cls, upper: bool = False) -> str:
        """Name."""
        return cls.__name__.upper() if upper else cls.__name__

    def plain(self, text: str) -> str:
        """Say it."""
        return f"{text} {self.n}"


def test_one_set_of_tools_from_many_sources() -> None:
    first, second = Counter(), Counter()
    schema = {
        "type": "object",
        "properties": {"class": {"type": "integer"}},
        "required": ["class"],
        "description": "By schema.",
    }
    made = toolset(
        first,
        second.plain,
        shout,
        ("triple", lambda **kw: kw["class"] + 1, schema),
        [Tool.from_function(shout, name="b")],
    )
    box = Toolbox(made, World())
    assert list(box.tools) == ["add", "zero", "name", "plain", "shout", "triple", "b"]
    assert [t.effect for t in made] == [True] + [False] * 6
    assert run(box, "add", n=2).value == 2
    assert (first.n, second.n) == (2, 0)
    assert run(box, "zero").value == 0
    assert run(box, "name", upper=True).value == "COUNTER"
    assert run(box, "plain", text="n is").value == "n is 0"
    assert run(box, "triple", **{"class": 1}).value == 2
    assert run(box, "triple").outcome is Outcome.INVALID_ARGUMENTS
    assert box.tools["triple"].spec.description == "By schema."
    with pytest.raises(EnvError, match="named 'add'"):
        toolset(first, second)
    with pytest.raises(EnvError, match="two tools are named 'shout'"):
        toolset(shout, shout)
    for nothing in (Counter, 3, "shout", object(), {"add": shout}):
        with pytest.raises(EnvError, match="no tools in"):
            toolset(nothing)
    with pytest.raises(EnvError, match="no description"):
        toolset(("triple", lambda: 1, {"type": "object"}))
    with pytest.raises(EnvError, match="one for each"):
        merge(made, made, prefix=["a_"])


def test_prefixes_reach_alternatives() -> None:
    pair = [Tool.from_function(shout, alternative="other"), Tool.from_function(shout, name="other", alternative="far")]
    assert [t.alternative for t in merge(pair, pair, prefix=["a_", "b_"])] == ["a_other", "far", "b_other", "far"]


def test_a_tool_from_a_model() -> None:
    """The function gets the model, with its defaults."""

    class Search(pydantic.BaseModel):
        """Search for a text."""

        text: str
        limit: int = 3

    def search(query: Search) -> str:
        return f"{type(query).__name__} {query.text} {query.limit}"

    box = Toolbox([Tool.from_model(Search, search), Tool.from_model(Search, search, name="again")], World())
    assert box.specs[0].name == "Search"
    assert box.specs[0].description == "Search for a text."
    assert run(box, "Search", text="a").content == "Search a 3"
    assert run(box, "again", text="a", limit=5).content == "Search a 5"
    assert run(box, "again", text="a", limt=5).outcome is Outcome.INVALID_ARGUMENTS


class Priced(pydantic.BaseModel):
    """Buy something."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid")
    day: datetime.date = pydantic.Field(alias="when")
    most: int = pydantic.Field(default=9, ge=1)

    @pydantic.model_validator(mode="after")
    def not_on_new_year(self) -> Priced:
        if self.day.timetuple().tm_yday == 1:
            raise ValueError("closed on New Year")
        if self.most == 7:
            raise KeyError("a bug of the model")
        return self


@pytest.mark.parametrize("validation", ["schema", "binding", "off"])
def test_a_models_own_rules_decide(validation: Any) -> None:
    """However the toolbox validates, a function never gets a model that breaks its own type."""
    box = Toolbox(
        [Tool.from_model(Priced, lambda priced: f"{priced.day} {priced.most}")], World(), validation=validation
    )
    assert run(box, "Priced", when="2026-01-02").content == "2026-01-02 9"
    for wrong, told in (
        ({}, "when: Field required"),
        ({"when": "2026-01-02", "most": "8"}, "most: Input should be a valid integer"),
        ({"when": "2026-01-02", "most": 0}, "most: Input should be greater than or equal to 1"),
        ({"when": "2026-01-01"}, "Value error, closed on New Year"),
        ({"when": "2026-01-02", "odd": 1}, "there is no argument 'odd'"),
        ({"day": "2026-01-02"}, "there is no argument 'day'"),
    ):
        result = run(box, "Priced", **wrong)
        assert (result.outcome, result.cause) == (Outcome.INVALID_ARGUMENTS, Cause.POLICY)
        assert json.loads(result.content)["message"] == told
    bug = run(box, "Priced", when="2026-01-02", most=7)
    assert (bug.outcome, bug.took_effect) == (Outcome.TOOL_ERROR, False)
    assert "a bug of the model" in str(bug.error)


@pytest.mark.parametrize(
    ("extra", "shown", "came_to"),
    [
        (None, False, ["no", "ok", "ok"]),
        ("ignore", None, ["ok"] * 3),
        ("allow", None, ["ok"] * 3),
        ("forbid", False, ["no"] * 3),
    ],
)
def test_a_models_extra_is_its_own(extra: Any, shown: bool | None, came_to: list[str]) -> None:
    """A model that does not say takes no others, as long as names are checked."""
    config = pydantic.ConfigDict() if extra is None else pydantic.ConfigDict(extra=extra)
    model = type(
        "Noted", (pydantic.BaseModel,), {"__doc__": "Note.", "__annotations__": {"n": int}, "model_config": config}
    )
    made = Tool.from_model(model, lambda noted: noted.model_dump())
    assert made.spec.parameters.get("additionalProperties") is shown
    for validation, wanted in zip(("schema", "off", "off"), came_to, strict=True):
        result = run(Toolbox([made], World(), validation=validation), "Noted", n=1, x=2)  # type: ignore[arg-type]  # a Literal
        assert ("ok" if result.ok else "no") == wanted
        assert not result.ok or result.value == ({"n": 1, "x": 2} if extra == "allow" else {"n": 1})


class Connection:
    """No pydantic model, and no JSON."""


class Queried(pydantic.BaseModel):
    """Query the database."""

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    text: str
    db: Connection


class Asked(pydantic.BaseModel):
    """Ask."""

    text: str
    _db: Any = pydantic.PrivateAttr()


def of_field(asked: Any) -> bool:
    return isinstance(asked.db, Connection)


def of_attribute(asked: Any) -> bool:
    return isinstance(asked.db, Connection) and isinstance(asked, Asked) and asked.model_dump() == {"text": "a"}


def of_private(asked: Any) -> bool:
    return isinstance(asked._db, Connection)


def of_keyword(asked: Any, *, db: Any = None) -> bool:
    return isinstance(db, Connection)


async def of_async(asked: Any, db: Any) -> bool:
    return isinstance(db, Connection)


@pytest.mark.parametrize(
    ("model", "fn", "injects"),
    [
        (Queried, of_field, "db"),
        (Queried, of_field, ("db",)),
        (Asked, of_attribute, ("db",)),
        (Asked, of_private, {"_db": Injected("db")}),
        (Asked, of_keyword, {"db": Injected("db")}),
        (Asked, of_keyword, {"db": Injected}),
        (Asked, of_async, ["db"]),
    ],
)
def test_what_is_injected_next_to_a_model(model: Any, fn: Any, injects: Any) -> None:
    box = Toolbox([Tool.from_model(model, fn, name="ask", injects=injects)], World(), inject={"db": Connection()})
    assert box.specs[0].parameters == {
        "properties": {"text": {"type": "string"}}, "required": ["text"], "type": "object",
        "additionalProperties": False,
    }  # fmt: skip
    assert run(box, "ask", text="a").value is True
    for name in ("db", "_db"):  # what the agent writes under that name never counts
        box.validation = "schema"
        assert run(box, "ask", text="a", **{name: 3}).outcome is Outcome.INVALID_ARGUMENTS
        box.validation = "off"
        assert run(box, "ask", text="a", **{name: 3}).value is True
    box.inject = {}
    with pytest.raises(EnvError, match="needs 'db' for its parameter"):
        run(box, "ask", text="a")


def test_what_cannot_be_injected_into_a_model() -> None:
    box = Toolbox([Tool.from_model(Queried, of_field, name="ask", injects="db")], World(), inject={"db": 3})
    with pytest.raises(EnvError, match="the value that is injected for db does not fit Queried"):
        run(box, "ask", text="a")  # nobody's arguments are to blame
    with pytest.raises(EnvError, match=r"\('_other',\) cannot be injected into Asked"):
        Tool.from_model(Asked, of_private, injects=("_other",))
    with pytest.raises(EnvError, match="is a RootModel; arguments come by name"):
        Tool.from_model(pydantic.RootModel[dict[str, int]], repr, name="root", description="Root.")


def test_what_is_injected_is_not_shown() -> None:
    schema = {"type": "object", "properties": {"n": {}, "db": {}}, "required": ["n", "db"], "description": "Count."}
    made = Tool.from_schema("count", lambda n, db: n + db, schema, injects="db")
    assert made.spec.parameters == {"type": "object", "properties": {"n": {}}, "required": ["n"]}
    assert run(Toolbox([made], World(), inject={"db": 2}), "count", n=1).value == 3
    assert schema["properties"] == {"n": {}, "db": {}}


def test_forms() -> None:
    box = toolbox(shout, effect=True)
    schema = box.specs[0].parameters
    function = {"name": "shout", "description": "Say it loudly.", "parameters": schema}
    assert box.described() == box.described("hermes") == [{"type": "function", "function": function}]
    assert box.described("anthropic") == [
        {"name": "shout", "description": "Say it loudly.", "input_schema": schema},
    ]
    assert box.described("mcp") == [
        {
            "name": "shout",
            "description": "Say it loudly.",
            "inputSchema": schema,
            "annotations": {"readOnlyHint": False, "idempotentHint": False},
        }
    ]
    with pytest.raises(UnknownName, match="Did you mean 'openai'"):
        box.described("openia")  # type: ignore[arg-type]  # on purpose


class Base(ToolEnv):
    """Has helpers of many kinds."""

    @tool
    def first(self) -> str:
        """First."""
        return "first"

    @tool(name="second")
    def other(self) -> str:
        """Second."""
        return "second"

    def helper(self) -> str:
        """Public, documented, typed: and no tool."""
        return "helper"

    def setup(self, task: Task, rng: Any) -> None:
        self.state = {}


class Derived(Base):
    def first(self) -> str:  # overridden without @tool: hidden
        return "mine"

    @tool
    def third(self) -> str:
        """Third."""
        return self.helper()


def test_only_decorated_methods_are_tools() -> None:
    assert [t.name for t in tools_of(Base)] == ["first", "second"]
    assert set(Derived().toolbox.tools) == {"second", "third"}
    for leaked in ("helper", "close", "reset", "step", "render", "snapshot", "first"):
        assert run(Derived().toolbox, leaked).outcome is Outcome.UNKNOWN_TOOL


def test_two_tools_of_one_name() -> None:
    class Twice(ToolEnv):
        @tool(name="same")
        def one(self) -> str:
            """One."""
            return ""

        @tool(name="same")
        def two(self) -> str:
            """Two."""
            return ""

    with pytest.raises(EnvError, match="two tools named 'same': one and two"):
        Twice()
    made = [Tool.from_function(shout)]
    with pytest.raises(EnvError, match="give prefixes"):
        merge(made, made)
    assert [t.name for t in merge(made, made, prefix=["a_", "b_"])] == ["a_shout", "b_shout"]
    with pytest.raises(EnvError, match="named 'shout'"):
        Toolbox(made * 2, World())


@pytest.mark.parametrize(
    "hint",
    [
        str, int, float, bool, list[int], dict[str, int], Literal["a", 1], int | None, list[dict[str, str]], Size,
        Point, Address, datetime.date, tuple[int, str], Annotated[int, pydantic.Field(ge=5)],
        Annotated[int, pydantic.Field(lt=-5)], Annotated[float, pydantic.Field(gt=0, le=0.5)],
        Annotated[str, pydantic.Field(min_length=20, max_length=20)],
        Annotated[list[int], pydantic.Field(min_length=2, max_length=2)],
    ],
    ids=str,
)  # fmt: skip
def test_samples_fit_the_schema(hint: Any) -> None:
    def take(value: Any) -> str:
        """Take a value."""
        return "ok"

    take.__annotations__["value"] = hint
    box = toolbox(take)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert run(box, "take", **sample_json(box.specs[0].parameters, rng)).ok


# ---- outcomes -------------------------------------------------------------------------------------------------------


def test_a_call_that_is_right() -> None:
    call, result = toolbox(shout).execute(ToolCall("shout", {"text": "hi"}, raw="as sampled"))
    assert call.id == result.call_id == "c1"
    assert call.raw == "as sampled"
    assert result == ToolResult("c1", "shout", Outcome.OK, "HI", "HI", took_effect=True)


def test_calls_that_never_reach_a_tool() -> None:
    box = toolbox(shout)
    malformed = box.execute(ToolCall("", None, raw="{oops", error="not JSON"))[1]
    wrong = [run(box, "shout"), run(box, "shout", text=1), run(box, "shout", text="a", loud=True)]
    assert [r.outcome for r in wrong] == [Outcome.INVALID_ARGUMENTS] * 3
    assert malformed.outcome is Outcome.MALFORMED
    assert run(box, "shuot", text="a").outcome is Outcome.UNKNOWN_TOOL
    assert '"text"' in wrong[0].content.replace("\\", "")
    assert "text: 1" in wrong[1].content
    assert "loud" in wrong[2].content
    for result in (malformed, *wrong):
        assert result.cause is Cause.POLICY
        assert result.took_effect is False


@pytest.mark.parametrize("bad", [{"text": object()}, {"text": "\ud800"}, {"text": "a", "times": 2**70}])
def test_arguments_that_are_no_json(bad: dict[str, Any]) -> None:
    assert run(toolbox(shout), "shout", **bad).outcome is Outcome.MALFORMED


TYPED = [
    (ToolError("no"), Outcome.TOOL_ERROR), (NotFound("no"), Outcome.NOT_FOUND), (Conflict("no"), Outcome.CONFLICT),
    (Forbidden("no"), Outcome.FORBIDDEN), (Unavailable("no"), Outcome.UNAVAILABLE),
    (RateLimited("no", retry_after=3), Outcome.RATE_LIMITED), (Unauthenticated("no"), Outcome.UNAUTHENTICATED),
    (Gone("no", successor="other"), Outcome.GONE), (ToolTimeout("no", took_effect=None), Outcome.TIMEOUT),
]  # fmt: skip


@pytest.mark.parametrize(("error", "outcome"), TYPED, ids=lambda v: type(v).__name__)
def test_typed_errors_keep_their_type(error: ToolError, outcome: Outcome) -> None:
    def fail() -> None:
        """Fail."""
        raise error

    result = run(toolbox(fail), "fail")
    assert (result.outcome, result.cause, result.took_effect) == (outcome, Cause.TOOL, error.took_effect)
    assert json.loads(result.content)["message"] == "no"
    assert result.error is None
    assert result.fault is None


@pytest.mark.parametrize("effect", [False, True])
def test_a_bug_in_a_tool_shows_no_internals(effect: bool) -> None:
    def lookup(key: str) -> str:
        """Look a key up."""
        secret = {"answer": "42"}
        return secret[key]

    result = run(toolbox(lookup, effect=effect), "lookup", key="record not found")
    assert result.outcome is Outcome.TOOL_ERROR  # a KeyError in the body is not a not_found
    assert result.cause is Cause.TOOL
    assert json.loads(result.content) == {"error": "tool_error", "message": "internal error"}
    assert result.error is not None
    assert "KeyError" in result.error
    assert "secret[key]" in result.error
    assert result.took_effect is (None if effect else False)


@pytest.mark.parametrize("value", ["\ud800", {"deep": ["\ud800", 2**70]}])
def test_a_result_that_cannot_be_recorded_is_the_tools_bug(value: Any) -> None:
    def give() -> Any:
        """Give a value."""
        return value

    assert run(toolbox(give), "give").outcome is Outcome.TOOL_ERROR


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (7, "7"), (None, "null"), ("as is", "as is"), ({"b": 1, "a": [True]}, '{"b":1,"a":[true]}'),
        ({1: 2}, '{"1":2}'), ((1, 2), "[1,2]"), (np.array([1, 2]), "[1,2]"), (Size.LARGE, '"L"'),
        (Point(1), '{"x":1,"y":0}'), ("é", "é"), (float("nan"), '"NaN"'),
        ({"mean": float("nan"), "max": [float("inf"), -math.inf], "none": None},
         '{"mean":"NaN","max":["Infinity","-Infinity"],"none":null}'),
        (np.array([1.5, np.nan]), '[1.5,"NaN"]'),
        ({"at": Point(1), "n": float("nan")}, '{"at":{"x":1,"y":0},"n":"NaN"}'),
    ],
)  # fmt: skip
def test_results_are_compact_json(value: Any, content: str) -> None:
    def give() -> Any:
        """Give a value."""
        return value

    result = run(toolbox(give), "give")
    assert result.content == content
    if not isinstance(value, str):
        assert result.value == json.loads(content)


@pytest.mark.parametrize(
    "number",
    [2**64, -(2**63) - 1, math.factorial(25), -(10**30), math.factorial(2000)],
    ids=["2**64", "below -2**63", "25!", "-10**30", "2000!"],
)
def test_numbers_beyond_64_bits_keep_their_digits(number: int) -> None:
    """They are shown as numbers, and are texts in the record, which every reader of JSON keeps."""
    digits = f"{decimal.Decimal(number):f}"
    for value, content, recorded in (
        (number, digits, digits),
        (
            {"id": number, "n": [1, 2.5, None]},
            f'{{"id":{digits},"n":[1,2.5,null]}}',
            {"id": digits, "n": [1, 2.5, None]},
        ),
        (Point(number), f'{{"x":{digits},"y":0}}', {"x": digits, "y": 0}),
    ):

        def give(value: Any = value) -> Any:
            """Give a value."""
            return value

        made = Tool.from_schema("give", give, {"type": "object"})
        result = Toolbox((made,), World(), max_output=10_000).execute(ToolCall("give", {}))[1]
        assert (result.content, result.value) == (content, recorded)
        orjson.dumps(result.value)


def test_a_recorded_value_does_not_change_with_the_world() -> None:
    world = {"lent": [1]}

    def read() -> Any:
        """Read the world."""
        return world

    result = run(toolbox(read), "read")
    world["lent"].append(2)
    assert result.value == {"lent": [1]}


def test_a_long_result_is_cut_and_says_so() -> None:
    result = run(toolbox(shout, max_output=10), "shout", text="a", times=25)
    assert result.content == "A" * 10 + "... [cut: 15 more characters]"
    assert result.value == "A" * 25


@pytest.mark.parametrize(
    ("level", "content"),
    [
        (0, {"error": "failed"}),
        (1, {"error": "gone"}),
        (2, {"error": "gone", "message": "moved"}),
        (3, {"error": "gone", "message": "moved", "hint": "use other"}),
    ],
)
def test_how_much_an_error_tells(level: int, content: dict[str, str]) -> None:
    def fail() -> None:
        """Fail."""
        raise Gone("moved", successor="other")

    assert json.loads(run(toolbox(fail, hint_level=level), "fail").content) == content


def test_validation_is_a_setting() -> None:
    schema, binding, off = (toolbox(shout, validation=v) for v in ("schema", "binding", "off"))
    assert run(schema, "shout", text=1).outcome is Outcome.INVALID_ARGUMENTS
    assert run(binding, "shout", text=1).outcome is Outcome.TOOL_ERROR  # the body runs on the wrong type
    assert run(binding, "shout").outcome is Outcome.INVALID_ARGUMENTS
    assert run(binding, "shout", text="a", loud=1).outcome is Outcome.INVALID_ARGUMENTS
    assert run(off, "shout", text="a", loud=1).outcome is Outcome.TOOL_ERROR
    assert run(off, "shout", text="a").ok


def test_without_validation_the_body_gets_what_was_written() -> None:
    def take(size: Size) -> str:
        """Take a size."""
        return repr(size)

    assert run(toolbox(take, validation="off"), "take", size="XXL").content == "'XXL'"
    assert run(toolbox(take, validation="off"), "take", size="L").content == "<Size.LARGE: 'L'>"


def test_a_retry_names_the_call_that_failed() -> None:
    fails = [True, True, False, True]

    def flaky(a: int, b: int) -> str:
        """Fail at first."""
        if fails.pop(0):
            raise Unavailable
        return "ok"

    box = toolbox(flaky)
    results = [run(box, "flaky", a=1, b=2), run(box, "flaky", b=2, a=1), run(box, "flaky", a=1, b=2)]
    assert [r.retry_of for r in results] == [None, "c1", "c2"]
    assert run(box, "flaky", a=1, b=2).retry_of is None  # the last one had worked
    assert [run(box, "nothing", a=1).retry_of for _ in range(2)] == [None, "c5"]
    assert [run(box, "flaky", a="x").retry_of for _ in range(2)] == [None, "c7"]
    malformed = [box.execute(ToolCall("", None, raw=raw, error="not JSON"))[1] for raw in ("{", "{", "[")]
    assert [r.retry_of for r in malformed] == [None, "c9", None]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["shout", "", "no\nsuch", "é"]),
    st.none() | st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=3),
    st.sampled_from(["schema", "binding", "off"]),
)
def test_no_call_raises(name: str, arguments: dict[str, Any] | None, validation: Any) -> None:
    box = toolbox(shout, validation=validation)
    call, result = box.execute(ToolCall(name, arguments))
    assert result.call_id == call.id
    assert (result.cause is None) == result.ok
    result.content.encode()


# ---- parsing --------------------------------------------------------------------------------------------------------


def test_a_call_is_read_and_kept_verbatim() -> None:
    raw = ' {"arguments": {"x": 1.0, "y": "\\u00e9"}, "name": "f"}\n'
    assert parse_call(raw) == ToolCall("f", {"x": 1.0, "y": "é"}, raw)
    assert parse_call('{"name": "f"}').arguments == {}
    assert parse_call('{"name": "f", "parameters": {"x": 1}}').arguments == {"x": 1}  # as Llama 3 writes it
    assert parse_call('{"type": "function", "name": "f", "arguments": {"x": 1}}').arguments == {"x": 1}


MALFORMED = {
    "": "not JSON",
    "{": "not JSON",
    "[]": "not a JSON object",
    "null": "not a JSON object",
    "{}": 'no "name"',
    '{"name": ""}': 'no "name"',
    '{"name": 3}': 'no "name"',
    '{"name": "f", "arguments": []}': '"arguments" is not an object',
    '{"name": "f", "arguments": "{}"}': '"arguments" is not an object',
    '{"name": "f", "arguments": null}': '"arguments" is not an object',
    '{"name": "f", "arguments": ""}': '"arguments" is not an object',
    '{"name": "f", "parameters": []}': '"parameters" is not an object',
    '{"name": "f", "arguments": {}, "parameters": {"a": 1}}': "expected one of them",
    '{"name": "f", "args": {"a": 1}}': 'the key \'args\': expected "name" and "arguments"',
    '{"name": "f", "input": {"a": 1}}': "the key 'input'",
    '{"name": "f", "Arguments": {"a": 1}}': "the key 'Arguments'",
    '{"name": "f", "order": 7}': "the key 'order'",
    '{"name": "f", "id": "o7"}': "the key 'id'",
    '{"name": "f", "arguments": {"a": 1}, "b": 2}': "the key 'b'",
    '{"name": "f", "": {"a": 1}}': "the key ''",
    '{"name": "f", "type": "tool", "arguments": {}}': "the key 'type'",
    '{"type": "function", "function": {"name": "f"}}': 'no "name"',
    '{"name": "f", "name": "g"}': "the key 'name' stands twice",
    '{"name": "f", "arguments": {"a": {"b": 1, "b": 2}}}': "the key 'b' stands twice",
    '{"name": "f", "arguments": {"x": NaN}}': "NaN",
    '{"name": "f", "arguments": {"x": -Infinity}}': "-Infinity",
    '{"name": "f", "arguments": {"x": 1e999}}': "no finite number",
    '{"name": "f", "arguments": {"x": 18446744073709551616}}': "beyond 64 bits",
    '{"name": "f", "arguments": {"x": -9223372036854775809}}': "beyond 64 bits",
    '{"name": "f", "arguments": {"x": ' + "9" * 5000 + "}}": "beyond 64 bits",
    '{"name": "f", "arguments": {"x": "\\ud800"}}': "surrogate",
    '{"name": "\\udfff"}': "surrogate",
    '{"name": "f", "arguments": {"x": "\ud800"}}': "surrogate",
    '{"name": "f", "arguments": {"x": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}}": "nested deeper",
    "[" * 100_000: "nested deeper",
    '{"name": "f"} trailing': "not JSON",
    '{"name": "f", "arguments": {"x": "' + "a" * MAX_CALL_BYTES + '"}}': "at most",
}


@pytest.mark.parametrize("raw", MALFORMED, ids=lambda raw: ascii(raw[:40]))
def test_what_is_malformed_says_why(raw: str) -> None:
    call = parse_call(raw)
    assert call.arguments is None
    assert MALFORMED[raw] in call.error
    for text in (call.name, call.raw, call.error):
        text.encode()  # fit for every record
    if "\ud800" not in raw:
        assert call.raw == raw


def test_depth_and_size_are_limits_and_not_less() -> None:
    inner = "[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2)
    assert parse_call('{"name": "f", "arguments": {"x": ' + inner + "}}").arguments is not None
    assert parse_call('{"name": "f", "arguments": {"x": "' + "[" * 500 + '\\""}}').arguments is not None
    assert parse_call('{"name": "f", "arguments": {"x": 18446744073709551615}}').arguments == {"x": 2**64 - 1}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), json_values, max_size=3))
def test_every_json_call_is_read_back(arguments: dict[str, Any]) -> None:
    raw = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=False)
    try:
        raw.encode()
    except UnicodeEncodeError:  # a surrogate in an inner key
        assert parse_call(raw).arguments is None
        return
    call = parse_call(raw)
    assert call.arguments == arguments
    orjson.dumps(call.arguments)


@settings(max_examples=100, deadline=None)
@given(st.text() | st.text(alphabet='{}[]":,\\ud8nameargutsNI019.e- \ud800', max_size=60) | json_values.map(json.dumps))
def test_parsing_never_raises(raw: str) -> None:
    call = parse_call(raw)
    assert (call.arguments is None) == bool(call.error)
    for text in (call.name, call.raw, call.error):
        text.encode()
    if call.arguments is not None:
        orjson.dumps(call.arguments)


# Hints: only those that a schema needs, with what they say


def test_names_that_no_schema_needs_may_be_missing() -> None:
    space: dict[str, Any] = {"tool": tool, "Injected": Injected, "Annotated": Annotated}
    exec(  # as under `from __future__ import annotations`, with names of `if TYPE_CHECKING`
        "def total(n: 'int', db: 'Annotated[Database, Injected]') -> 'Decimal':\n    'Adds.'\n    return n + db\n",
        space,
    )
    (made,) = toolset(space["total"])
    assert list(made.spec.parameters["properties"]) == ["n"]
    assert list(made.injects) == ["db"]


def test_a_class_of_the_enclosing_function_is_found() -> None:
    class Colour(enum.Enum):
        RED = "red"

    def paint(colour: Colour) -> str:
        """Paint it."""
        return colour.name

    class Painter:
        @tool
        def brush(self, colour: Colour) -> str:
            """Brush it."""
            return colour.name

    for made in toolset(paint, Painter()):
        assert made.arguments is not None
        assert made.validator.is_valid({"colour": "red"})
        assert not made.validator.is_valid({"colour": "blue"})


def made_here() -> list[Any]:
    """Functions, none marked with @tool, whose hints name what only this function knows; `Size` is not the module's."""
    from decimal import Decimal

    class Size(enum.Enum):
        SMALL = "small"

    class Paper(enum.Enum):
        A4 = "a4"

    @dataclasses.dataclass
    class Order:
        paper: Paper
        count: int = 1

    Way = Literal["air", "sea"]

    def pick(size: Size) -> str:
        """Pick a size."""
        return size.name

    def order(what: Order, way: Way = "air") -> str:
        """Order it."""
        return f"{what.paper.name} {what.count} {way}"

    def pay(price: Decimal) -> str:
        """Pay it."""
        return f"{type(price).__name__} {price}"

    async def later(sizes: list[Size], other: Size | None = None) -> str:
        """Pick later."""
        return f"{[size.name for size in sizes]} {other}"

    return [pick, order, pay, later]


def made_with(kind: Any, json: Any) -> list[Any]:
    """Functions whose hints depend on an argument, which is not known any more. `json` is not the module here."""
    Kind = Literal[kind]  # type: ignore[valid-type]  # known at run time alone

    class Named(enum.Enum):
        ONE = json

    def by_kind(it: Kind) -> None:
        """By kind."""

    def by_name(it: Named) -> None:
        """By name."""

    return [by_kind, by_name]


class Painter:
    class Colour(enum.Enum):
        RED = "red"

    def brush(self, colour: Colour) -> str:
        """Brush it."""
        return colour.name


@pytest.mark.parametrize("collected", [False, True])
def test_what_only_the_function_around_knows_is_found_when_it_has_returned(collected: bool) -> None:
    made = made_here()
    if collected:
        gc.collect()
    box = Toolbox(toolset(*made), World())
    assert run(box, "pick", size="small").content == "SMALL"
    assert run(box, "pick", size="large").outcome is Outcome.INVALID_ARGUMENTS
    assert run(box, "order", what={"paper": "a4"}, way="sea").content == "A4 1 sea"
    assert run(box, "pay", price="1.50").content == "Decimal 1.50"
    assert run(box, "later", sizes=["small"]).content == "['SMALL'] None"


def test_what_depends_on_an_argument_is_not_made_up() -> None:
    for function in made_with("x", "y"):
        with pytest.raises(EnvError, match=r"name '(Kind|Named)' is not defined; mark it with @tool where"):
            toolset(function)


def test_a_class_inside_of_the_class_of_a_method_is_found() -> None:
    box = Toolbox(toolset(Painter().brush, *methods(Painter, "brush", at="x", name="other")), World())
    assert run(box, "brush", colour="red").content == "RED"


def test_partials_and_objects_that_can_be_called() -> None:
    def sum_up(a: int, b: Annotated[int, "the second"] = 2) -> int:
        """Sum up."""
        return a + b

    class Doubler:
        def __call__(self, n: Annotated[int, "what"]) -> int:
            """Double it."""
            return 2 * n

    first = Tool.from_function(functools.partial(sum_up, b=3), name="first")
    second = Tool.from_function(functools.partial(sum_up, 10), name="second")
    third = Tool.from_function(Doubler(), name="third")
    assert [made.spec.description for made in (first, second, third)] == ["Sum up.", "Sum up.", "Double it."]
    assert list(second.spec.parameters["properties"]) == ["b"]
    box = Toolbox([first, second, third], World())
    assert [run(box, "first", a=1).value, run(box, "second", b=1).value, run(box, "third", n=4).value] == [4, 11, 8]


def test_defaults_of_every_kind_fit_what_is_shown() -> None:
    wrong: Any = "three"

    def take(
        choice: Literal["a"] = wrong,
        size: Size = Size.LARGE,
        when: datetime.date = datetime.date(2026, 1, 31),
        home: Address = Address(street="Elm", number=2),  # noqa: B008  # what people write
        point: Point = Point(1),  # noqa: B008
        pair: tuple[int, int] = (1, 2),
        names: frozenset[str] = frozenset(),
        data: bytes = b"x",
        least: float = -math.inf,
        odd: float = math.nan,
        count: int = wrong,
    ) -> str:
        """Take all."""
        return str(count)

    made = Tool.from_function(take)
    shown = made.spec.parameters["properties"]
    for name, value in shown.items():
        if "default" in value:
            assert made.validator.is_valid({name: value["default"]}), name
    assert {"size", "when", "home", "pair"} <= {name for name, value in shown.items() if "default" in value}
    assert not {"choice", "least", "odd", "count"} & {name for name, value in shown.items() if "default" in value}
    json.dumps(made.spec.parameters, allow_nan=False)
    assert run(Toolbox([made], World()), "take").content == "three"


def test_a_shown_schema_accepts_its_own_default() -> None:
    nothing: Any = None

    def search(
        limit: int = nothing,
        below: float = math.inf,
        least: Annotated[int, pydantic.Field(ge=1)] = 0,
        word: str = "a",
    ) -> str:
        """Search."""
        return ""

    (made,) = toolset(search)
    shown = made.spec.parameters["properties"]
    assert made.validator.is_valid({"limit": None})
    assert made.validator.is_valid({name: value["default"] for name, value in shown.items() if "default" in value})
    assert [name for name, value in shown.items() if "default" in value] == ["limit", "word"]
    json.dumps(made.spec.parameters, allow_nan=False)


def test_texts_in_annotated_describe() -> None:
    class Doc:
        def __init__(self, documentation: str) -> None:
            self.documentation = documentation

    def send(
        to: Annotated[str, "whom"], about: Annotated[str, Doc("what of")], tags: list[Annotated[str, "one word"]]
    ) -> str:
        """Send it."""
        return ""

    (made,) = toolset(send)
    shown = made.spec.parameters["properties"]
    assert (shown["to"]["description"], shown["about"]["description"]) == ("whom", "what of")
    assert shown["tags"]["items"]["description"] == "one word"


def test_a_definition_made_anew_is_read_once_and_another_is_not() -> None:
    def made(choices: Any, default: Any = "a") -> Any:
        def pick(kind: choices = default) -> str:
            """Pick."""
            return ""

        (one,) = toolset(pick)
        return one

    one, two = made(Literal["a", "b"]), made(Literal["a", "b"])
    assert one.validator is two.validator
    assert one.spec is two.spec
    assert made(Literal["b", "a"]).spec.parameters["properties"]["kind"]["enum"] == ["b", "a"]
    assert made(Literal["a", "b"], "b").spec.parameters["properties"]["kind"]["default"] == "b"
    assert made(int, 1).spec.parameters["properties"]["kind"]["default"] == 1
    assert made(float, 1.0).spec.parameters["properties"]["kind"]["type"] == "number"
