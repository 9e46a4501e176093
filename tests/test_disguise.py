"""Disguises: a bijection whatever the names, worlds that stay what they were, records that speak the true names."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from no_world import World

from sparring.agents.replay import Replayer
from sparring.agents.rollouts import EpisodeSpec, rollout
from sparring.agents.scripts import scripted
from sparring.envs import ToolEnv, check_env, make, registered, task_set
from sparring.envs.experts import play
from sparring.envs.roles import tool_roles
from sparring.tools import FaultPlan, NotFound, Tool, Toolbox
from sparring.tools.disguise import DrawnDisguise
from sparring.tools.disguise.lexicon import FAR, SYNONYMS
from sparring.tools.faults import FAULTS
from sparring.tools.mcp import mcp_tools
from sparring.tools.openapi import openapi_tools
from sparring.trajectories import Action, DataError, Message, Outcome, ToolCall, ToolSpec, Trajectory
from sparring.trajectories.disguise import DISGUISE, Disguise, Swaps, content_of, written
from sparring.trajectories.metrics import measure

NAMES = [short for short in registered().values() if short and short != "code-repair"]
"""Without code-repair, whose every call starts a process; it has a test of its own."""


def in_disguise(name: str, share: float = 1.0, clutter: float = 0.0) -> str:
    return f"{name}?disguise={share}" + (f"&clutter={clutter}" if clutter else "")


def played(env: str | Callable[[], ToolEnv], n: int, plan: str = "", split: Any = "train") -> list[Trajectory]:
    made = make(env) if isinstance(env, str) else env()
    tasks = task_set(made, split, n)
    specs = [EpisodeSpec(task, FaultPlan.parse(plan)) for task in tasks]
    return rollout(env, scripted("expert"), specs)


# ---- a bijection -----------------------------------------------------------------------------------------------------

WORDS = """order_id id ids name title status state data result ok success payload details record info rest trace took_ms
cache related error message hint code o12 TK-12 ref7 N-3 x1 größe 名前 orderId log-in __ a_ low LOW open Open pending
cancelled void retry `id` 1 null"""
TRICKY = [*WORDS.split(), "a b", 'quo"te', "back\\slash", "line\nbreak", "", "use id"]
names = st.one_of(
    st.sampled_from(TRICKY), st.sampled_from(sorted(SYNONYMS)), st.sampled_from(FAR), st.text(max_size=12)
)
texts = st.one_of(
    names,
    st.builds("{}{}".format, st.sampled_from(["o", "c", "TK-", "ref", "id_", "N", "Ω", "p-"]), st.integers(0, 99999)),
    st.builds("see {} and {}.".format, names, st.sampled_from(["o12", "TK-7", "c3", "ref99"])),
)
values = st.recursive(
    st.one_of(texts, st.integers(-(2**53), 2**53), st.booleans(), st.none(), st.floats(allow_nan=False, width=32)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=5)),
    max_leaves=14,
)
tools = st.lists(
    st.tuples(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,20}", fullmatch=True) | st.sampled_from(sorted(SYNONYMS)),
        st.dictionaries(names, st.lists(texts, max_size=4, unique=True), max_size=5),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda tool: tool[0],
)


def tool_of(name: str, parameters: dict[str, list[str]]) -> Tool:
    properties: dict[str, Any] = {
        key: {"type": "string", "enum": listed} if listed else {} for key, listed in parameters.items()
    }
    schema = {"type": "object", "properties": properties}
    return Tool(ToolSpec(name, f"Uses `{name}`, or 'id'.", schema), lambda **given: given, ids=tuple(parameters)[:1])


def without_surrogates(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


@settings(max_examples=60, deadline=None)
@given(
    tools,
    st.lists(st.dictionaries(names, values, max_size=5), min_size=1, max_size=4),
    st.lists(values, min_size=1, max_size=5),
    st.sampled_from(
        [orjson.dumps, json.dumps, lambda v: json.dumps(v, indent=2), lambda v: json.dumps(v, ensure_ascii=False)]
    ),
    st.integers(0, 999),
    st.booleans(),
    st.booleans(),
)
def test_all_leads_there_and_back(
    given_tools: Any, arguments: Any, results: Any, dump: Any, seed: int, plain: bool, clutter: bool
) -> None:
    """What was said stays what it was, whatever came after it: the record's mapping, as it is at the end, reads all."""
    known = [tool_of(*tool) for tool in given_tools]
    d = DrawnDisguise(str(seed), names=not plain, clutter=clutter)
    d.meet(known, [Message("user", "Set `id` of o77 to low.")])
    specs = tuple(tool.spec for tool in known)
    shown_specs = d.shown_specs(specs)
    assert len({spec.name for spec in shown_specs}) == len(specs)
    done: list[tuple[Action, Action, str, str]] = []
    for i, value in enumerate(results):
        call = ToolCall(known[i % len(known)].name, arguments[i % len(arguments)])
        said = Action(f"It is o12, or {value}.", (call,), thinking=f"First TK-7, then {value}")
        shown = d.shown_action(said)
        assert d.read_action(shown) == said
        text = value if isinstance(value, str) else dump(value)
        text = text.decode() if isinstance(text, bytes) else text
        done.append((said, shown, text, d.shown_content(text)))
    read = Disguise.from_json(orjson.loads(orjson.dumps(d.to_json())))
    for said, shown, text, content in done:
        assert read.action(shown) == said
        assert read.true_message(shown.message) == said.message
        assert read.true_content(content) == text
    for spec in specs:
        true = read.true_spec(d.shown_spec(spec))
        assert true.name == spec.name
        assert true.parameters["properties"].keys() == spec.parameters["properties"].keys()
        for key, about in spec.parameters["properties"].items():
            assert true.parameters["properties"][key].get("enum") == about.get("enum")


@settings(max_examples=60, deadline=None)
@given(tools, st.dictionaries(names, values, max_size=5), st.integers(0, 99))
def test_a_call_that_fits_the_shown_schema_fits_the_true_one(given_tools: Any, arguments: Any, seed: int) -> None:
    known = [tool_of(*tool) for tool in given_tools]
    d = DrawnDisguise(str(seed))
    d.meet(known, [])
    for tool in known:
        call = ToolCall(tool.name, arguments)
        shown = d.shown_action(Action(tool_calls=(call,))).tool_calls[0]
        spec = d.shown_spec(tool.spec)
        as_shown = Tool(ToolSpec(spec.name, "Shown.", spec.parameters), tool.fn)
        assert as_shown.validator.is_valid(shown.arguments) == tool.validator.is_valid(arguments)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_text_that_is_no_json_is_left_alone(text: str) -> None:
    found = content_of(text)
    if found is not None:
        assert written(*found) == text


def test_a_pair_is_exchanged_and_nothing_else() -> None:
    swaps = Swaps({"a": "b"})
    assert [swaps[text] for text in ("a", "b", "c")] == ["b", "a", "c"]
    for true, shown in (("a", "c"), ("c", "b"), ("c", "c")):
        with pytest.raises(DataError, match="exchanges each name"):
            swaps.add(true, shown)


# ---- worlds stay what they were --------------------------------------------------------------------------------------


def plainly(t: Trajectory) -> list[Any]:
    """What happened, in true names. Failures are worded otherwise, and are compared by their outcome."""
    return [
        t.task,
        t.stop,
        t.success,
        t.reward_parts,
        t.faults_hit,
        t.expert_turns,
        *(
            (
                turn.action.content,
                [(call.name, call.arguments, call.id) for call in turn.action.tool_calls],
                [
                    (
                        r.tool,
                        r.outcome,
                        r.cause,
                        r.fault,
                        r.took_effect,
                        r.retry_after,
                        r.value,
                        r.content if r.ok else "",
                    )
                    for r in turn.results
                ],
            )
            for turn in t.turns
        ),
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plan", ["", "count=2"])
def test_the_expert_does_what_it_did_and_the_record_tells_it_in_true_names(name: str, plan: str) -> None:
    bare = played(name, 12, plan)
    hidden = played(in_disguise(name, clutter=0.5), 12, plan)
    for t, other in zip(bare, hidden, strict=True):
        read = Trajectory.from_json(other.to_json())
        assert DISGUISE in read.meta or other.meta.get("others")
        if not {r.fault for r in t.results()} & {"truncated_output", "malformed_output"}:  # their text is no JSON
            assert plainly(read.undisguised) == plainly(t)
        assert read.success == t.success
        assert {spec.name for spec in read.undisguised.tools} == {spec.name for spec in t.tools}
        for spec in read.undisguised.tools:
            was = next(s for s in t.tools if s.name == spec.name)
            assert spec.parameters.get("required", []) == was.parameters.get("required", [])
            assert spec.parameters["properties"].keys() == was.parameters["properties"].keys()


@pytest.mark.parametrize("name", ["orders", "calendar", "shop"])
@pytest.mark.parametrize("kind", list(FAULTS))
def test_the_expert_recovers_from_each_fault_as_it_did(name: str, kind: str) -> None:
    plan = f"count=1:{kind}"
    bare, hidden = played(name, 8, plan), played(in_disguise(name), 8, plan)
    assert [(t.success, t.faults_hit, len(t.turns)) for t in hidden] == [
        (t.success, t.faults_hit, len(t.turns)) for t in bare
    ]


QUICK = ("orders", "echo")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in NAMES])
def test_the_check_finds_nothing(name: str) -> None:
    assert check_env(in_disguise(name, 0.9, 0.5), tasks=4) == []


def test_code_repair_too() -> None:
    bare, hidden = played("code-repair", 2), played(in_disguise("code-repair", clutter=1), 2)
    assert [plainly(t.undisguised) for t in hidden] == [plainly(t) for t in bare]


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], type[ToolEnv]]]:
    from importlib import import_module

    from sparring.envs.knobs import harder

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples" / "foreign"))
    yield lambda name: harder(getattr(import_module(name.split(":")[0]), name.split(":")[1]), disguise=1.0)
    for module in ("desk", "airline", "desk_suite", "airline_suite"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize("name", ["desk:HelpDesk", "airline:Airline"])
def test_foreign_suites_too(name: str, foreign: Callable[[str], type[ToolEnv]]) -> None:
    made = foreign(name)
    base = made.__mro__[2]
    assert check_env(made, tasks=6) == []
    for plan in ("", "count=1"):
        bare, hidden = played(base, 8, plan), played(made, 8, plan)
        assert [t.success for t in hidden] == [t.success for t in bare]
        for t, other in zip(bare, hidden, strict=True):
            if not {r.fault for r in t.results()} & {"truncated_output", "malformed_output"}:
                assert plainly(other.undisguised) == plainly(t)


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_is_identical(name: str) -> None:
    episodes = played(in_disguise(name, 0.9, 0.3), 6, "count=1")
    check = Replayer(wait=lambda seconds: None)
    for t in episodes:
        replayed = check(Trajectory.from_json(t.to_json()))
        assert replayed.identical, (replayed.difference, replayed.unreplayable)


def test_another_disguise_is_a_difference() -> None:
    t = played(in_disguise("orders"), 1)[0]
    found = Replayer("orders", wait=lambda seconds: None)(t)
    assert found.difference is not None


def test_a_fork_goes_on_under_the_same_names() -> None:
    env = make(in_disguise("orders", clutter=1))
    task = task_set(env, "train", 4)[3]
    env.start(task)
    actions = [turn.action for turn in play(env)]
    env.start(task)
    env.act(actions[0])
    frozen = env.snapshot()
    straight = [env.act(action).turn for action in actions[1:]]
    names = env.toolbox.state.disguise
    assert names is not None
    for _ in range(2):
        env.restore(frozen)
        assert [env.act(action).turn for action in actions[1:]] == straight
        again = env.toolbox.state.disguise
        assert again is not None
        assert again is not names
        assert again.to_json() == names.to_json()


def test_each_episode_has_names_of_its_own_and_the_same_task_the_same() -> None:
    env = make(in_disguise("orders"))
    tasks = task_set(env, "train", 30)
    seen = []
    for task in tasks:
        seen.append(tuple(spec.name for spec in env.start(task).tools))
        assert tuple(spec.name for spec in env.start(task).tools) == seen[-1]
    assert len(set(seen)) == 30
    words = {name for names_ in seen for name in names_}
    assert len(words) > 150


def test_a_share_of_episodes_is_in_disguise() -> None:
    env = make(in_disguise("orders", 0.3))
    hidden = 0
    for task in task_set(env, "train", 400):
        env.start(task)
        hidden += env.toolbox.state.disguise is not None
    assert 0.2 < hidden / 400 < 0.4


def test_nothing_of_a_true_name_is_left_where_the_agent_looks() -> None:
    env = make(in_disguise("orders"))
    env_tools = set(env.toolbox.tools)
    for task in task_set(env, "train", 20):
        first = env.start(task, FaultPlan.parse("count=1"))
        names_ = env.toolbox.state.disguise
        assert names_ is not None
        gone = {name for name in (*names_.tools.pairs, *names_.keys.pairs) if "_" in name} & {
            *env_tools, "order_id", "payment_id", "customer_id",
        }  # fmt: skip
        texts_ = [orjson.dumps([spec.openai() for spec in first.tools]).decode(), *(m.content for m in first.messages)]
        texts_ += [r.content for turn in play(env) for r in turn.results if r.fault != "malformed_output"]
        for text in texts_:
            if "truncated" not in text:
                assert not [name for name in gone if name in text]


# ---- a toolbox by itself ---------------------------------------------------------------------------------------------


def test_a_toolbox_of_ones_own_wears_a_disguise() -> None:
    def find_order(order_id: str, status: str = "open") -> dict[str, Any]:
        """Find an order."""
        if order_id != "o12":
            raise NotFound(f"no order {order_id}", hint="use find_order")
        return {"order_id": order_id, "status": status, "owner_id": "c7"}

    tool = Tool.from_function(find_order)
    for seed in range(40):
        box = Toolbox([tool], World())
        box.wear(DrawnDisguise(str(seed)))
        (spec,) = box.specs
        assert box.described("mcp")[0]["name"] == spec.name
        names_ = box.state.disguise
        assert names_ is not None
        key = names_.keys["order_id"]
        assert key in spec.parameters["properties"]
        call, result = box.execute(ToolCall(spec.name, {key: "o12"}))
        assert (call.name, result.tool, result.ok) == (spec.name, spec.name, True)
        again = names_.ids("o12")
        assert again in result.content
        assert box.execute(ToolCall(spec.name, {key: again}))[1].ok
        failed = box.execute(ToolCall(spec.name, {key: names_.ids("o13")}))[1]
        assert names_.ids("o13") in failed.content
        assert spec.name in failed.content or "use " not in failed.content
        assert not box.execute(ToolCall(spec.name, {"nonsense": 1}))[1].ok
        if spec.name != "find_order":
            assert not box.execute(ToolCall("find_order", {"order_id": "o12"}))[1].ok


def test_what_a_suite_says_of_a_failure_has_the_names_and_ids_of_the_disguise() -> None:
    said = {"error": "o13 is void: call find_order", "seen": [{"order_id": "o12", "near": ["o14"]}], "code": 7}

    def find_order(order_id: str = "o12") -> dict[str, Any]:
        """Find an order."""
        return {"order_id": order_id} if order_id == "o12" else said

    tool = Tool.from_function(find_order, ids=("order_id",))
    different = 0
    for seed in range(30):
        box = Toolbox([tool], World(), fidelity="suite", is_error=lambda value: "error" in value)
        box.wear(DrawnDisguise(str(seed)))
        names_ = box.state.disguise
        assert names_ is not None
        name, key = box.specs[0].name, names_.keys["order_id"]
        assert box.execute(ToolCall(name, {}))[1].ok  # an id comes up
        failed = box.execute(ToolCall(name, {key: names_.ids("o13")}))[1]
        assert failed.outcome is Outcome.TOOL_ERROR
        shown = orjson.loads(failed.content)
        assert name in failed.content
        assert names_.ids("o13") in failed.content
        near = {key: names_.ids("o12"), names_.keys["near"]: [names_.ids("o14")]}
        assert near in [value for listed in shown.values() if isinstance(listed, list) for value in listed]
        assert orjson.loads(names_.true_error(failed.content))["seen"] == said["seen"]
        different += "o12" not in failed.content
    assert different > 20


def test_a_suite_tells_of_a_new_name_in_the_names_of_the_disguise() -> None:
    for seed in range(20):
        d = DrawnDisguise(str(seed))
        d.meet([tool_of("find", {"customer": []})], [])
        shown = d.shown_error("Error: customer is now called customer_text; write customer_text for customer")
        old, new = d.keys["customer"], d.keys["customer_text"]
        assert shown.startswith(f"Error: {old} ")
        assert shown.endswith(f"; write {new} for {old}")


def test_what_is_no_call_is_refused_and_not_raised() -> None:
    box = Toolbox([tool_of("find", {"id": []})], World())
    deep: Any = []
    for _ in range(3000):
        deep = [deep]
    for seed in range(8):
        box.begin(None)
        box.wear(DrawnDisguise(str(seed)))
        for call in (
            ToolCall("find", None, "{", error="not JSON"),
            ToolCall("\ud800", {"\ud800": "\ud800"}),
            ToolCall(7, {1: 2}),  # type: ignore[arg-type,dict-item]  # only code can write it
            ToolCall("find", {"id": deep}),
            ToolCall("find", [1]),  # type: ignore[arg-type]  # only code can write it
        ):
            assert not box.execute(call)[1].ok


# ---- where tools come from, and where they go ------------------------------------------------------------------------


def test_an_mcp_server_offers_a_disguised_environment() -> None:
    from sparring.envs.bridges.mcp_server import Session

    for seed in range(6):
        session = Session(make(in_disguise("orders")))
        assert session.call("begin", {"seed": seed}).outcome is Outcome.OK
        names_ = session.env.toolbox.state.disguise
        assert names_ is not None
        shown = names_.tools["list_orders"]
        assert shown in {spec.name for spec in session.specs}
        assert session.call(shown, {names_.keys["customer_id"]: "c1"}).outcome is Outcome.NOT_FOUND


def test_tools_of_an_mcp_server() -> None:
    serve = "from sparring.envs.bridges.mcp_server import serve; serve('orders')"
    with mcp_tools([sys.executable, "-c", serve], env={"PYTHONPATH": os.pathsep.join(sys.path)}) as tools_:
        box = Toolbox(tools_, World())
        box.wear(DrawnDisguise("3"))
        names_ = box.state.disguise
        assert names_ is not None
        assert len(names_.tools.pairs) > 5
        assert box.execute(ToolCall(names_.tools["begin"], {names_.keys["seed"]: 1}))[1].ok
        arguments = {names_.keys["customer"]: "Nobody", names_.keys["item"]: "nothing"}
        call, result = box.execute(ToolCall(names_.tools["find_order"], arguments))
        assert (result.tool, result.outcome) == (names_.tools["find_order"], Outcome.NOT_FOUND)
        assert call.arguments == arguments


def test_tools_of_an_openapi_document() -> None:
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Shop", "version": "1"},
        "servers": [{"url": "https://shop.example"}],
        "paths": {
            "/orders/{order_id}": {
                "get": {
                    "operationId": "get_order",
                    "summary": "Read an order.",
                    "parameters": [
                        {"name": "order_id", "in": "path", "required": True, "schema": {"type": "string"}},
                        {"name": "status", "in": "query", "schema": {"enum": ["shipped", "cancelled"]}},
                    ],
                    "responses": {"200": {"description": "OK"}},
                }
            }
        },
    }

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            status = parse_qs(url.query).get("status", [""])[0]
            body = orjson.dumps({"order_id": url.path.rsplit("/", 1)[1], "status": status, "owner": "Ada"})
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with openapi_tools(document, base_url=f"http://127.0.0.1:{server.server_port}") as tools_:
            _orders_in_disguise(tools_)
    finally:
        server.shutdown()
        server.server_close()


def _orders_in_disguise(tools_: tuple[Tool, ...]) -> None:
    different = 0
    for seed in range(12):
        box = Toolbox(tools_, World())
        box.wear(DrawnDisguise(str(seed)))
        names_ = box.state.disguise
        assert names_ is not None
        (spec,) = box.specs
        properties = spec.parameters["properties"]
        assert set(properties) == {names_.keys["order_id"], names_.keys["status"]}
        status = properties[names_.keys["status"]]["enum"][0]
        _, result = box.execute(ToolCall(spec.name, {names_.keys["order_id"]: "o5", names_.keys["status"]: status}))
        assert result.ok, result.content
        assert result.value == {"order_id": "o5", "status": "shipped", "owner": "Ada"}
        assert status in result.content
        different += spec.name != "get_order"
    assert different > 6


# ---- readers ---------------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_the_true_names() -> None:
    plan = "count=2"
    bare, hidden = played("orders", 40, plan), played(in_disguise("orders"), 40, plan)
    roles = tool_roles([bare[0].env, hidden[0].env])
    one, other = measure(bare, roles), measure(hidden, roles)
    assert {name: m.value for name, m in one.items()} == {name: m.value for name, m in other.items()}


def test_a_record_whose_disguise_is_none_is_told() -> None:
    t = played(in_disguise("orders"), 1)[0]
    data = orjson.loads(t.to_json())
    broken: list[Any] = [{"tools": [1]}, [], "no", {"keys": {"a": 1}}, {"keys": {"a": "a"}}]
    for wrong in broken:
        data["meta"][DISGUISE] = wrong
        with pytest.raises(DataError, match=r"a disguise exchanges each|holds pairs of names"):
            Trajectory.from_json(orjson.dumps(data))


def test_clutter_adds_and_takes_nothing() -> None:
    bare, full = played("calendar", 10), played("calendar?clutter=1", 10)
    assert [plainly(t.undisguised) for t in full] == [plainly(t) for t in bare]
    assert all(
        len(r.content) > len(s.content)
        for t, u in zip(full, bare, strict=True)
        for r, s in zip(t.results(), u.results(), strict=True)
    )
    assert [t.tools for t in full] == [t.tools for t in bare]
