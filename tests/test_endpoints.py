"""Endpoints: real HTTP against a server that answers well, answers strangely, and fails in every way."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sparring import Trajectory
from sparring.agents import (
    AgentSettings,
    ChatAgent,
    EpisodeSpec,
    FakeChatModel,
    Judge,
    Limits,
    load_agent,
    load_chat_model,
    rollout,
    scripted,
)
from sparring.agents.chat_model import BadAnswer, ChatSettings, EndpointError, Usage
from sparring.agents.engines.openai.address import Address, Price
from sparring.agents.engines.openai.wire import Quirks, ToolNames, read_answer, request_body
from sparring.cli.root import app
from sparring.envs import ToolEnv, User, make, task_set
from sparring.trajectories import ConfigError, TrajectoryGroup
from sparring.trajectories.curation import judged_pairs
from sparring.trajectories.errors import UnknownName
from sparring.trajectories.messages import Action, Json, Message, Outcome, ToolCall, ToolSpec
from sparring.trajectories.metrics import success_rate
from sparring.trajectories.trajectory import StopReason

KEY = "sk-canary-0123456789abcdef"
OVER = 2.0
"""Seconds that a question may take in most tests."""


# ---- the server ------------------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """A request, and the connection on which it is answered."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    socket: socket.socket
    ended: threading.Event
    """Set when the server ends."""
    number: int
    """Of the request on this connection, from 1."""
    keep: bool = field(default=True)
    """Whether the connection stays open."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        return list(self.body["messages"])

    @property
    def turn(self) -> int:
        """Answers that the model has given before."""
        return sum(m["role"] == "assistant" for m in self.messages)

    def send(self, data: bytes) -> None:
        with suppress(OSError):  # the client has gone
            self.socket.sendall(data)

    def give(self, status: int, body: bytes | dict[str, Any] | list[Any], **headers: str) -> None:
        """A whole answer. Names of headers are written with `_`."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content_type": "application/json", "content_length": str(len(raw)), **headers}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items())
        self.send(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + raw)

    def reset(self) -> None:
        """The connection ends with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.end()

    def end(self) -> None:
        self.keep = False
        self.socket.close()


Behaviour = Callable[[Asked], None]


class Server(socketserver.ThreadingTCPServer):
    """A real HTTP server whose answers are written byte for byte by a function."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, behave: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave = behave
        self.asked: list[Asked] = []
        self.ended = threading.Event()
        self.block_on_close = False
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def spec(self, options: str = "", model: str = "m") -> str:
        return f"openai:{self.url}{'?' if options else ''}{options}#{model}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what is tested."""


class _Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        data, number = b"", 0
        while not self.server.ended.is_set():
            while b"\r\n\r\n" not in data:
                more = self.request.recv(65536)
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
            length = int(headers.get("content-length", 0))
            while len(data) < length:
                more = self.request.recv(65536)
                if not more:  # it went away in the middle of its question
                    return
                data += more
            body, data = data[:length], data[length:]
            number += 1
            method, path, _ = first.split(" ")
            asked = Asked(
                method, path, headers, json.loads(body) if body else {}, self.request, self.server.ended, number
            )
            self.server.asked.append(asked)
            self.server.behave(asked)
            if not asked.keep:
                return


@contextmanager
def serving(behave: Behaviour) -> Iterator[Server]:
    server = Server(behave)
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()


def answer(message: dict[str, Any], reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        **more,
    }


def call(name: str, arguments: Any, id: str = "abc") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def good_answer(asked: Asked) -> dict[str, Any]:
    """What a perfect model says in `echo`."""
    if asked.messages[-1]["role"] == "tool":
        return answer({"content": "Done."})
    word = next(m["content"] for m in asked.messages if m["role"] == "user").removeprefix("Say ").rstrip(".")
    return answer({"content": None, "tool_calls": [call("say", json.dumps({"word": word}))]}, "tool_calls")


def good(asked: Asked) -> None:
    asked.give(200, good_answer(asked))


def episodes(n: int) -> list[EpisodeSpec]:
    """`n` episodes of `echo`, with the seeds 1, 2, ..."""
    tasks = task_set(make("echo"), "test", 4)
    return [EpisodeSpec(tasks[i % len(tasks)], seed=i + 1) for i in range(n)]


def one(server: Server, options: str = "", *, tools: bool = False, **settings: Any) -> Any:
    """One question to the server."""
    model = load_chat_model(server.spec(options))
    try:
        spec = (ToolSpec("say", "Say.", {"type": "object", "properties": {}}),) if tools else ()
        return asyncio.run(model.answer([Message("user", "Hello.")], spec, ChatSettings(**settings)))
    finally:
        model.close()  # type: ignore[attr-defined]  # an endpoint has it


# ---- every bad answer ------------------------------------------------------------------------------------------------


def said(status: int, body: bytes | dict[str, Any] | list[Any], **headers: str) -> Behaviour:
    return lambda asked: asked.give(status, body, **headers)


def error(status: int, message: str = "It failed.", **headers: str) -> Behaviour:
    return said(status, {"error": {"message": message, "type": "x", "code": None}}, **headers)


def drips(asked: Asked) -> None:
    """One byte at a time, for longer than anybody waits: no read ever times out."""
    asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\ncontent-type: application/json\r\n\r\n")
    for _ in range(600):
        if asked.ended.wait(0.05):
            break
        asked.send(b" ")
    asked.end()


def never(asked: Asked) -> None:
    asked.ended.wait(60)
    asked.end()


def drips_headers(asked: Asked) -> None:
    asked.send(b"HTTP/1.1 200 OK\r\n")
    for i in range(600):
        if asked.ended.wait(0.05):
            break
        asked.send(f"x-{i}: y\r\n".encode())
    asked.end()


def in_the_middle(asked: Asked) -> None:
    """Less than `content-length` says."""
    raw = json.dumps(good_answer(asked)).encode()
    asked.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(raw)}\r\n\r\n".encode() + raw[:-20])
    asked.end()


def chunks_cut(asked: Asked) -> None:
    raw = json.dumps(good_answer(asked)).encode()
    asked.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + f"{len(raw):x}\r\n".encode() + raw)
    asked.end()  # all of it came, but the server did not say so


def reset_in_body(asked: Asked) -> None:
    asked.send(b'HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{"choices": [')
    time.sleep(0.02)
    asked.reset()


def json_cut(asked: Asked) -> None:
    """Whole HTTP, half the JSON."""
    asked.give(200, json.dumps(good_answer(asked)).encode()[:-30])


def until_closed(asked: Asked) -> None:
    """No length: the end of the connection is the end of the answer, wherever it comes."""
    asked.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + json.dumps(good_answer(asked)).encode()[:60])
    asked.end()


def huge(asked: Asked) -> None:
    asked.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
    with suppress(OSError):
        for _ in range(40):
            asked.socket.sendall(b" " * (1 << 20))
    asked.end()


def changed(**message: Any) -> Behaviour:
    return lambda asked: asked.give(200, answer(message))


def because(reason: str) -> Behaviour:
    """A good answer, with a finish_reason that takes it back."""

    def behave(asked: Asked) -> None:
        data = good_answer(asked)
        data["choices"][0]["finish_reason"] = reason
        asked.give(200, data)

    return behave


def not_http(asked: Asked) -> None:
    asked.send(b"SSH-2.0-OpenSSH_9.6\r\n")
    asked.end()


HTML = b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>"
NESTED = b'{"choices": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
B = BadAnswer
BAD: dict[str, tuple[Behaviour, BadAnswer]] = {
    "429": (error(429, retry_after="0"), B.RATE_LIMITED),
    "429 for an hour": (error(429, x="y"), B.RATE_LIMITED),
    "408": (error(408), B.OVERLOADED),
    "409": (error(409), B.OVERLOADED),
    "425": (error(425), B.OVERLOADED),
    "503": (error(503), B.OVERLOADED),
    "529": (error(529), B.OVERLOADED),
    "500": (error(500), B.SERVER_ERROR),
    "502, a page": (said(502, HTML, content_type="text/html"), B.SERVER_ERROR),
    "504": (said(504, b""), B.SERVER_ERROR),
    "599": (error(599), B.SERVER_ERROR),
    "400 after others were taken": (error(400), B.REJECTED),
    "422, a list": (said(422, {"detail": [{"loc": ["body", "messages"], "msg": "bad"}]}), B.REJECTED),
    "418": (error(418), B.REJECTED),
    "400 by a filter": (error(400, "The response was filtered: content_filter"), B.FILTERED),
    "200 with an error": (error(200), B.SERVER_ERROR),
    "200 with an error text": (said(200, {"error": "CUDA error: device-side assert triggered"}), B.SERVER_ERROR),
    "200 with the code of a rate limit": (said(200, {"error": {"code": 429, "message": "slow"}}), B.RATE_LIMITED),
    "200 with object error": (said(200, {"object": "error", "message": "no", "code": 50001}), B.SERVER_ERROR),
    "200 with a choice that failed": (
        said(200, {"choices": [{"index": 0, "error": {"code": 502, "message": "upstream"}, "finish_reason": "error"}]}),
        B.SERVER_ERROR,
    ),
    "no choices": (said(200, {"choices": []}), B.EMPTY),
    "choices null": (said(200, {"choices": None}), B.UNREADABLE),
    "a choice that is null": (said(200, {"choices": [None]}), B.UNREADABLE),
    "no message": (said(200, {"choices": [{"index": 0, "finish_reason": "stop"}]}), B.EMPTY),
    "an empty message": (said(200, {"choices": [{"message": {}, "finish_reason": "stop"}]}), B.EMPTY),
    "null, and no tokens": (
        said(200, answer({"content": None}, usage={"prompt_tokens": 9, "completion_tokens": 0})),
        B.EMPTY,
    ),
    "content a number": (changed(content=7), B.UNREADABLE),
    "content an image": (changed(content=[{"type": "image_url", "image_url": {}}]), B.UNREADABLE),
    "role user": (changed(role="user", content="Done."), B.UNREADABLE),
    "tool_calls a text": (changed(content="x", tool_calls="say"), B.UNREADABLE),
    "tool_calls of numbers": (changed(content="x", tool_calls=[1]), B.UNREADABLE),
    "finish_reason tool_calls without one": (said(200, answer({"content": "Done."}, "tool_calls")), B.UNREADABLE),
    "finish_reason content_filter": (because("content_filter"), B.FILTERED),
    "finish_reason abort": (because("abort"), B.UNFINISHED),
    "finish_reason insufficient_system_resource": (because("insufficient_system_resource"), B.UNFINISHED),
    "HTML with 200": (said(200, HTML, content_type="text/html"), B.NOT_JSON),
    "a stream": (said(200, b'data: {"choices": []}\n\n', content_type="text/event-stream"), B.NOT_JSON),
    "nothing": (said(200, b""), B.NOT_JSON),
    "204": (lambda asked: asked.send(b"HTTP/1.1 204 X\r\n\r\n"), B.NOT_JSON),
    "a list": (said(200, [1, 2]), B.NOT_JSON),
    "null": (said(200, b"null"), B.NOT_JSON),
    "another API": (said(200, {"status": "ok"}), B.UNREADABLE),
    "nested without end": (said(200, NESTED), B.NOT_JSON),
    "bytes": (said(200, bytes(range(256))), B.NOT_JSON),
    "gzip": (said(200, b"\x1f\x8b\x08", content_encoding="gzip"), B.UNREADABLE),
    "JSON cut": (json_cut, B.NOT_JSON),
    "JSON until the connection ends": (until_closed, B.NOT_JSON),
    "body cut": (in_the_middle, B.CUT),
    "chunks cut": (chunks_cut, B.CUT),
    "reset in the body": (reset_in_body, B.CUT),
    "reset before an answer": (Asked.reset, B.RESET),
    "closed before an answer": (Asked.end, B.RESET),
    "no HTTP": (not_http, B.RESET),
    "too much": (huge, B.TOO_LARGE),
    "drips": (drips, B.TIMEOUT),
    "drips headers": (drips_headers, B.TIMEOUT),
    "never": (never, B.TIMEOUT),
}


def played_badly(n: int) -> tuple[list[Trajectory], list[str], float]:
    """`n` episodes that each meet one bad answer, in the first or second turn, and a tenth as many that meet none.

    Only those to which no answer ever comes are played with little patience, for this machine may be slow.
    """
    names = list(BAD)
    total = n + n // 10
    which = [names[i % len(names)] if i < n else "" for i in range(total)]

    def behave(asked: Asked) -> None:
        name = which[asked.body["seed"] - 1]
        at = asked.body["seed"] // len(names) % 2
        (BAD[name][0] if name and asked.turn == at else good)(asked)

    with serving(behave) as server:
        agent, hasty = (load_agent(server.spec(f"timeout={timeout}&retries=1")) for timeout in (60, 1.5))
        server.behave = good
        assert rollout("echo", agent, episodes(1))[0].success is True
        server.behave = behave
        start = time.monotonic()
        never_comes = [bool(name) and BAD[name][1] is B.TIMEOUT for name in which]
        every = list(zip(episodes(total), never_comes, strict=True))
        late = iter(rollout("echo", hasty, [e for e, never in every if never]))
        rest = iter(rollout("echo", agent, [e for e, never in every if not never]))
        played = [next(late if never else rest) for never in never_comes]
        took = time.monotonic() - start
        for each in (agent, hasty):
            each.model.close()  # type: ignore[attr-defined]  # of a ChatAgent
    return played, which, took


def check_badly(n: int) -> str:
    played, which, took = played_badly(n)
    assert len(played) == n + n // 10
    wrong = []
    for t, name in zip(played, which, strict=True):
        if name:
            fits = t.meta.get("bad_answer") == BAD[name][1] and t.stop is StopReason.INFRASTRUCTURE
            if not fits or t.success is not None or t.judged or t.reward or not t.error:
                wrong.append((name, t.stop.value, t.meta.get("bad_answer"), t.error))
        elif t.success is not True or t.error:
            wrong.append(("good", t.stop.value, t.meta.get("bad_answer"), t.error))
    assert not wrong, f"{len(wrong)}: {wrong[:5]}"
    rate = success_rate(played)
    assert (rate.value, rate.n, rate.excluded) == (1.0, n // 10, n)
    kinds = Counter(str(t.meta["bad_answer"]) for t in played if "bad_answer" in t.meta)
    return f"{n} bad answers of {len(BAD)} sorts in {took:.1f} s: {dict(kinds)}"


def test_bad_answers_are_all_accounted_for_and_none_is_scored() -> None:
    """Each sort in the first turn, and in the second."""
    check_badly(2 * len(BAD))


@pytest.mark.slow
def test_a_thousand_bad_answers() -> None:
    print(check_badly(1000))


@pytest.mark.parametrize("name", BAD)
def test_each_bad_answer_says_what_it_was(name: str) -> None:
    behave, kind = BAD[name]
    with serving(good) as server:
        model = load_chat_model(server.spec(f"timeout={1.5 if kind is B.TIMEOUT else 60}&retries=0"))
        question = [Message("user", "Say jade.")]
        asyncio.run(model.answer(question, (), ChatSettings()))
        server.behave = behave
        with pytest.raises(EndpointError) as raised:
            asyncio.run(model.answer(question, (), ChatSettings()))
        model.close()  # type: ignore[attr-defined]  # an endpoint has it
    assert raised.value.kind is kind, raised.value
    assert str(raised.value).startswith(f"m at {server.url}: ")
    assert len(str(raised.value)) < 500
    assert raised.value.usage.requests >= 1


# ---- answers in all their forms --------------------------------------------------------------------------------------

NAMES = ToolNames(["say", "mail.send"])


@pytest.mark.parametrize(
    ("message", "reason", "content", "calls"),
    [
        ({"content": "Done."}, "stop", "Done.", []),
        ({"content": "Done."}, None, "Done.", []),
        ({"content": [{"type": "text", "text": "Do"}, {"type": "text", "text": "ne."}]}, "stop", "Done.", []),
        ({"content": ["Done."]}, "eos", "Done.", []),
        ({"content": None, "refusal": "I cannot do it."}, "stop", "I cannot do it.", []),
        ({"content": [{"type": "refusal", "refusal": "I cannot."}]}, "stop", "I cannot.", []),
        ({"content": "\ud800"}, "stop", "?", []),
        ({"content": ""}, "stop", "", []),
        ({"content": None}, "length", "", []),
        ({"content": None, "tool_calls": [call("say", '{"word": "a"}')]}, "tool_calls", "", [("say", {"word": "a"})]),
        ({"tool_calls": [call("say", {"word": "a"})]}, "stop", "", [("say", {"word": "a"})]),
        ({"content": "", "tool_calls": [call("say", "")]}, "tool_calls", "", [("say", {})]),
        ({"content": "", "tool_calls": [call("say", None)]}, "tool_calls", "", [("say", {})]),
        ({"content": "So:", "tool_calls": [call("mail_send", "{}")]}, "tool_calls", "So:", [("mail.send", {})]),
        ({"tool_calls": [call("say", "{}"), call("x", "{}")]}, "tool_calls", "", [("say", {}), ("x", {})]),
        ({"content": None, "function_call": {"name": "say", "arguments": "{}"}}, "function_call", "", [("say", {})]),
        ({"content": "Done.", "tool_calls": None}, "stop", "Done.", []),
        ({"content": "Done.", "tool_calls": []}, "stop", "Done.", []),
        # what the model wrote wrongly is its own doing: a call that fails, and no failure of infrastructure
        ({"tool_calls": [call("say", '{"word": ')]}, "length", "", [("say", None)]),
        ({"tool_calls": [call("say", "")]}, "length", "", [("say", None)]),
        ({"tool_calls": [call("say", "[1]")]}, "stop", "", [("say", None)]),
        ({"tool_calls": [call("say", '{"a": NaN}')]}, "stop", "", [("say", None)]),
        ({"tool_calls": [call("say", '{"a": 1}, "b": 2')]}, "stop", "", [("say", None)]),
        ({"tool_calls": [call("", "{}")]}, "stop", "", [("", None)]),
        ({"tool_calls": [call("say", "[" * 100 + "]" * 100)]}, "stop", "", [("say", None)]),
    ],
)
def test_forms_of_an_answer(
    message: dict[str, Any], reason: str | None, content: str, calls: list[tuple[str, Json]]
) -> None:
    found = read_answer(answer(message, reason), NAMES)
    assert found.action.content == content
    assert [(c.name, c.arguments) for c in found.action.tool_calls] == calls
    assert all(c.error for c in found.action.tool_calls if c.arguments is None)
    assert found.stopped is (reason != "length")


@pytest.mark.parametrize(
    "message",
    [
        {"content": "Yes.", "reasoning_content": "Let me see."},
        {"content": "Yes.", "reasoning": "Let me see."},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Let me see."}]}, "Yes."]},
    ],
)
def test_thoughts_are_kept_apart(message: dict[str, Any]) -> None:
    found = read_answer(answer(message), NAMES)
    assert (found.action.content, found.action.thinking) == ("Yes.", "Let me see.")


def test_of_several_choices_the_first_counts() -> None:
    data = answer({"content": "second"})
    data["choices"][0]["index"] = 1
    data["choices"].append(answer({"content": "first"})["choices"][0])
    assert read_answer(data, NAMES).action.content == "first"


def test_what_is_sent_fits_the_api() -> None:
    """Ids, names and arguments that strict servers refuse are sent in a form that they take."""
    tool = ToolSpec("mail.send", "Send.", {"type": "object", "properties": {}})
    calls = (ToolCall("mail.send", {"to": "é"}, id="e1-0"), ToolCall("no such tool!", None, '{"a": ', id="e1-1"))
    said = [
        Message("user", "Go."),
        Message("assistant", "", calls),
        Message("tool", "sent", tool_call_id="e1-0", name="mail.send"),
        Message("tool", "not JSON", tool_call_id="e1-1", name="no such tool!"),
    ]
    body, names = request_body("m", said, [tool], ChatSettings(0.5, 99, 2**62 + 5), Quirks())
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.5, 99, 5)
    assert body["tools"][0]["function"]["name"] == "mail_send"
    assert names.ours("mail_send") == "mail.send"
    sent = body["messages"][1]
    assert sent["content"] is None
    assert [c["function"]["name"] for c in sent["tool_calls"]] == ["mail_send", "no_such_tool_"]
    assert [json.loads(c["function"]["arguments"]) for c in sent["tool_calls"]] == [
        {"to": "é"},
        {"malformed": '{"a": '},
    ]
    ids = [c["id"] for c in sent["tool_calls"]]
    assert [m["tool_call_id"] for m in body["messages"][2:]] == ids
    assert len(set(ids)) == 2
    assert all(len(id) == 9 and id.isalnum() for id in ids)
    assert tool.name == "mail.send"


def test_names_that_come_to_the_same_stay_apart() -> None:
    names = ToolNames(["a.b", "a_b", "a b", "x" * 80, "x" * 81])
    sent = [names.sent(n) for n in ("a.b", "a_b", "a b", "x" * 80, "x" * 81)]
    assert len(set(sent)) == 5
    assert all(len(s) <= 64 for s in sent)
    assert [names.ours(s) for s in sent] == ["a.b", "a_b", "a b", "x" * 80, "x" * 81]


def test_a_malformed_call_is_the_models_own_failure() -> None:
    """It is an observation, the episode goes on, and it counts."""

    def behave(asked: Asked) -> None:
        if asked.turn == 0:
            asked.give(200, answer({"content": None, "tool_calls": [call("say", "{'word': 1}")]}, "tool_calls"))
        else:
            asked.give(200, answer({"content": "I give up."}))

    with serving(behave) as server:
        agent = load_agent(server.spec())
        t = rollout("echo", agent, episodes(1))[0]
        agent.model.close()  # type: ignore[attr-defined]  # of a ChatAgent
    assert t.judged
    assert t.success is False
    assert t.turns[0].results[0].outcome is Outcome.MALFORMED
    again = server.asked[1].messages[-2]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(again) == {"malformed": "{'word': 1}"}


# ---- when it is asked again ------------------------------------------------------------------------------------------


def after(failures: list[Behaviour]) -> Behaviour:
    """Fails in these ways, one after the other, and then answers."""
    left = list(failures)
    return lambda asked: (left.pop(0) if left else good)(asked)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 503, 529])
def test_what_was_refused_is_asked_again(status: int) -> None:
    with serving(after([error(status, retry_after="0"), error(status, retry_after_ms="5")])) as server:
        found = one(server)
    assert found.usage.requests == len(server.asked) == 3
    assert found.usage.answers == 1


@pytest.mark.parametrize("name", ["500", "504", "reset before an answer", "body cut", "JSON cut", "no choices"])
def test_what_may_have_been_answered_is_not_asked_again(name: str) -> None:
    with serving(after([BAD[name][0]])) as server, pytest.raises(EndpointError):
        one(server)
    assert len(server.asked) == 1


@pytest.mark.parametrize("name", ["500", "504", "reset before an answer", "body cut"])
def test_unless_that_is_asked_for(name: str) -> None:
    with serving(after([BAD[name][0]])) as server:
        assert one(server, "resend=yes").usage.requests == 2


def test_a_connection_that_was_kept_and_has_ended_costs_nothing() -> None:
    """The server ends it at the very moment of the next question: that was never looked at."""

    def behave(asked: Asked) -> None:
        good(asked) if asked.number == 1 else asked.reset()

    with serving(behave) as server:
        agent = load_agent(server.spec("retries=1"), name="kept")
        t = rollout("echo", agent, episodes(1))[0]
        agent.model.close()  # type: ignore[attr-defined]  # of a ChatAgent
    assert t.success is True
    assert t.meta["usage"]["requests"] == 3
    assert [a.number for a in server.asked] == [1, 2, 1]


@pytest.mark.parametrize(
    ("header", "at_least"),
    [({"retry_after": "1"}, 1.0), ({"retry_after_ms": "700"}, 0.7), ({"retry_after": formatdate(usegmt=True)}, 0.0)],
)
def test_retry_after_is_honoured(header: dict[str, str], at_least: float) -> None:
    with serving(after([error(429, **header)])) as server:
        start = time.monotonic()
        one(server)
    assert at_least <= time.monotonic() - start < at_least + 5


def test_retry_after_as_a_date() -> None:
    with serving(lambda asked: None) as server:
        server.behave = after([error(503, retry_after=formatdate(time.time() + 2, usegmt=True))])
        start = time.monotonic()
        one(server)
    assert 0.9 <= time.monotonic() - start < 7


def test_a_wait_beyond_the_deadline_is_not_waited_for() -> None:
    with serving(error(429, "Come back.", retry_after="3600")) as server:
        agent = load_agent(server.spec("timeout=60"))
        start = time.monotonic()
        played = rollout("echo", agent, episodes(8))
        agent.model.close()  # type: ignore[attr-defined]  # of a ChatAgent
    assert time.monotonic() - start < 20
    assert {t.meta["bad_answer"] for t in played} == {"rate_limited"}
    assert "asks to wait 3600 s" in "".join(t.error or "" for t in played)


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        model = load_chat_model(f"openai:http://127.0.0.1:{port}/v1?retries=1#m")
        with pytest.raises(EndpointError, match="no connection") as raised:
            asyncio.run(model.answer([Message("user", "Hi.")], (), ChatSettings()))
        model.close()  # type: ignore[attr-defined]  # an endpoint has it
    assert raised.value.kind is BadAnswer.UNREACHABLE
    assert raised.value.usage.requests == 2


def test_at_most_so_many_questions_at_once() -> None:
    now, most, lock = [0], [0], threading.Lock()

    def behave(asked: Asked) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        asked.give(200, answer({"content": "Verdict: A"}))

    with serving(behave) as server:
        model = load_chat_model(server.spec(), AgentSettings(parallel=3))

        async def many() -> None:
            await asyncio.gather(*(model.answer([Message("user", str(i))], (), ChatSettings()) for i in range(12)))

        asyncio.run(many())
        model.close()  # type: ignore[attr-defined]  # an endpoint has it
    assert most[0] == 3


def test_an_episode_that_is_out_of_time_leaves_no_question_behind() -> None:
    with serving(never) as server:
        agent = load_agent(server.spec("timeout=50"))
        start = time.monotonic()
        t = rollout("echo", agent, episodes(1), limits=Limits(seconds=0.5))[0]
        assert time.monotonic() - start < 10
        agent.model.close()  # type: ignore[attr-defined]  # of a ChatAgent
    assert t.stop is StopReason.INFRASTRUCTURE
    assert not t.judged


# ---- the end of the run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behave", "says"),
    [
        (error(401, f"Incorrect API key provided: {KEY}"), r"HTTP 401.*\[key\].*the key in MY_KEY"),
        (error(403, "No access to this model."), "HTTP 403: No access"),
        (error(402, "Pay first."), "no credit"),
        (
            said(429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}),
            "no credit",
        ),
        (error(405, "Method Not Allowed"), "HTTP 405"),
        (error(400, "Invalid schema for function 'say'"), "does not take the question: HTTP 400: Invalid schema"),
        (said(422, {"detail": "bad"}), "HTTP 422: bad"),
        (said(307, b"", location="http://elsewhere.example/v1"), "sends us on .HTTP 307. to http://elsewhere.example"),
    ],
)
def test_what_would_meet_every_question_ends_the_run_and_is_said_once(
    behave: Behaviour, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(behave) as server:
        agent = load_agent(server.spec("key=MY_KEY"))
        with pytest.raises(ConfigError, match=says) as raised:
            rollout("echo", agent, episodes(200))
        agent.model.close()  # type: ignore[attr-defined]  # of a ChatAgent
    assert KEY not in str(raised.value)
    assert len(server.asked) <= 64


def test_a_model_that_is_not_there_is_told_with_those_that_are() -> None:
    def behave(asked: Asked) -> None:
        if asked.path.endswith("/models"):
            asked.give(200, {"data": [{"id": "qwen3-0.6b"}, {"id": "smollm2"}]})
        else:
            asked.give(404, {"error": {"message": "The model `m` does not exist."}})

    with serving(behave) as server, pytest.raises(ConfigError, match=r"does not exist.*it has: qwen3-0.6b, smollm2"):
        one(server)


def test_a_redirect_gets_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(good) as other, serving(good) as server:
        server.behave = said(308, b"", location=f"{other.url}/chat/completions")
        with pytest.raises(ConfigError, match="not followed"):
            one(server, "key=MY_KEY")
        assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
        assert other.asked == []


@pytest.mark.parametrize(
    "said_so",
    [
        error(
            400, "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens."
        ),
        said(400, {"error": {"message": "Too long.", "code": "context_length_exceeded"}}),
        said(400, {"error": {"type": "exceed_context_size_error", "message": "the request exceeds the available"}}),
        said(400, {"object": "error", "message": "Input is longer than the model's context length"}),
        said(413, {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
        said(
            200, {"error": {"message": "The input token count (9) exceeds the maximum number of tokens", "code": 400}}
        ),
    ],
)
def test_a_full_context_is_the_episodes_limit(said_so: Behaviour) -> None:
    with serving(lambda asked: (said_so if asked.turn else good)(asked)) as server:
        agent = load_agent(server.spec())
        t = rollout("echo", agent, episodes(1))[0]
        agent.model.close()  # type: ignore[attr-defined]  # of a ChatAgent
    assert t.stop is StopReason.TOKEN_LIMIT
    assert t.judged
    assert t.error is None


def test_answers_that_fill_the_context_are_a_setting() -> None:
    told = "'max_tokens' is too large: 5000. This model's maximum context length is 4096 tokens and your request has 9"
    with serving(error(400, told)) as server, pytest.raises(ConfigError, match="lower --max-turn-tokens"):
        one(server, max_tokens=5000)


def test_max_context_is_kept_by_the_servers_count() -> None:
    with serving(good) as server:
        agent = load_agent(server.spec(), AgentSettings(max_context=150, max_turn_tokens=64))
        t = rollout("echo", agent, episodes(1))[0]
        agent.model.close()  # type: ignore[attr-defined]  # of a ChatAgent
    assert (t.stop, len(t.turns)) == (StopReason.TOKEN_LIMIT, 1)
    assert len(server.asked) == 1


# ---- what servers want otherwise -------------------------------------------------------------------------------------


def test_a_server_that_takes_other_parameters_is_asked_with_those(caplog: pytest.LogCaptureFixture) -> None:
    def behave(asked: Asked) -> None:
        if "max_tokens" in asked.body:
            text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
            asked.give(400, {"error": {"message": text, "param": "max_tokens", "code": "unsupported_parameter"}})
        elif "seed" in asked.body:
            asked.give(422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}]})
        else:
            good(asked)

    with serving(behave) as server:
        agent = load_agent(server.spec())
        played = rollout("echo", agent, episodes(12))
        agent.model.close()  # type: ignore[attr-defined]  # of a ChatAgent
    assert all(t.success for t in played)
    assert server.asked[-1].body["max_completion_tokens"] == 64
    assert "takes no seed" in caplog.text


def test_a_temperature_of_its_own() -> None:
    with serving(good) as server:
        one(server, "temperature=1", temperature=0.0)
    assert server.asked[0].body["temperature"] == 1.0


# ---- addresses and keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "model", "says"),
    [
        ("localhost:8000", "m", "openai:URL#MODEL"),
        ("http://", "m", "openai:URL#MODEL"),
        ("http://host:99999/v1", "m", "openai:URL#MODEL"),
        ("http://host/v1", "", "which model"),
        ("https://me:secret-word@host/v1", "m", r"\?key=NAME"),
        (f"https://host/v1?key={KEY}", "m", "names the environment variable"),
        ("https://host/v1?key=NOT_THERE_AT_ALL", "m", "NOT_THERE_AT_ALL is to hold the key for host, and is not set"),
        ("https://host/v1?timeout=0", "m", "seconds above 0"),
        ("https://host/v1?timeout=nan", "m", "seconds above 0"),
        ("https://host/v1?price=1", "m", "price= of an endpoint"),
        ("https://host/v1?retries=-1", "m", "whole number"),
        ("https://host/v1?resend=maybe", "m", "yes or no"),
        ("https://host/v1?cache=", "m", "a folder"),
        ("https://api.openai.com/v1", "m", "OPENAI_API_KEY is to hold the key"),
    ],
)
def test_addresses_that_cannot_be_meant(place: str, model: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=says) as raised:
        Address.parse(place, model)
    assert "secret-word" not in str(raised.value)
    assert KEY not in str(raised.value)


def test_an_option_that_there_is_not() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'timeout'"):
        Address.parse("http://host/v1?timeuot=3", "m")


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEP_KEY", f" {KEY}\n")
    found = Address.parse(
        "https://host/v1/chat/completions?key=DEEP_KEY&price=1,2,0.5&timeout=9&cache=c&resend=yes", "a/b"
    )
    assert (found.url, found.model, found.timeout, found.resend) == ("https://host/v1", "a/b", 9.0, True)
    assert found.key is not None
    assert found.key.get_secret_value() == KEY
    assert KEY not in repr(found)
    assert found.price == Price(1, 2, 0.5)
    assert found.price.of(1_000_000, 500_000, 400_000) == pytest.approx(0.6 + 0.2 + 1.0)
    assert [Address(f"http://{host}/v1", "m").local for host in ("localhost", "127.0.0.1:8", "[::1]", "host")] == [
        True, True, True, False,
    ]  # fmt: skip


def test_openais_key_goes_to_openai_and_to_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert Address.parse("https://api.openai.com/v1", "m").key is not None
    assert Address.parse("https://other.example/v1", "m").key is None
    assert Address.parse("https://api.openai.com.other.example/v1", "m").key is None
    monkeypatch.setenv("OPENAI_BASE_URL", "https://other.example/v1/")
    assert Address.parse("https://other.example:443/v1", "m").key is not None
    assert Address.parse("http://other.example/v1", "m").key is None


def test_the_key_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """In no record, error, log, cache or file of settings, though the server sends it back in every way it can."""
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)

    def behave(asked: Asked) -> None:
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        if asked.turn == 0:
            said = {
                "content": f"I saw {KEY}.",
                "reasoning": KEY,
                "tool_calls": [call("say", json.dumps({"word": KEY}))],
            }
            asked.give(200, answer(said, "tool_calls"))
        else:
            asked.give(500, {"error": {"message": f"The key {KEY} failed."}})

    with serving(behave) as server:
        spec = server.spec(f"key=MY_KEY&cache={tmp_path / 'cache'}")
        done = CliRunner().invoke(
            app, ["evaluate", "echo", "--agent", spec, "--n", "2", "--faults", "clean", "--out", str(tmp_path / "out")]
        )
    assert done.exit_code == 0, done.output
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert len(files) >= 5
    for file in files:
        assert KEY.encode() not in file.read_bytes(), file
    assert any(b"I saw [key]." in f.read_bytes() for f in files)
    assert KEY not in done.output + done.stderr + caplog.text
    assert "MY_KEY" in (tmp_path / "out" / "run.yaml").read_text("utf-8")


def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are used for other hosts, and never for this machine."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with serving(good) as proxy, serving(good) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        one(server)
        assert (len(server.asked), len(proxy.asked)) == (1, 0)
        model = load_chat_model("openai:http://somewhere.example/v1#m")
        asyncio.run(model.answer([Message("user", "Say jade.")], (), ChatSettings()))
        model.close()  # type: ignore[attr-defined]  # an endpoint has it
        assert proxy.asked[0].path == "http://somewhere.example/v1/chat/completions"


# ---- tokens, cost, cache ---------------------------------------------------------------------------------------------


def test_tokens_and_cost_are_in_the_record() -> None:
    with serving(good) as server:
        agent = load_agent(server.spec("price=1,10"))
        t = rollout("echo", agent, episodes(1))[0]
        agent.model.close()  # type: ignore[attr-defined]  # of a ChatAgent
    usage = dict(t.meta["usage"])
    assert usage.pop("seconds") > 0
    assert usage.pop("cost") == pytest.approx(2 * (100 + 100) / 1e6)
    assert usage == {"answers": 2, "requests": 2, "prompt_tokens": 200, "completion_tokens": 20}
    assert Trajectory.from_json(t.to_json()).meta == t.meta


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        (None, Usage(uncounted=1, unpriced=1)),
        ({}, Usage(uncounted=1, unpriced=1)),
        ({"prompt_tokens": "9", "completion_tokens": -1}, Usage(uncounted=1, unpriced=1)),
        ({"prompt_tokens": 9, "completion_tokens": 3}, Usage(prompt_tokens=9, completion_tokens=3, unpriced=1)),
        (
            {"prompt_tokens": 9, "completion_tokens": 3, "cost": 0.25, "prompt_tokens_details": {"cached_tokens": 4}},
            Usage(prompt_tokens=9, completion_tokens=3, cached_tokens=4, cost=0.25),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}},
            Usage(prompt_tokens=9, completion_tokens=3, reasoning_tokens=2, unpriced=1),
        ),
    ],
)
def test_usage_as_servers_give_it(usage: dict[str, Any] | None, found: Usage) -> None:
    with serving(said(200, answer({"content": "Hi.", "reasoning": "Hm."}, usage=usage))) as server:
        got = one(server)
    assert got.action.thinking == "Hm."
    assert replace(got.usage, seconds=0.0) == replace(found, answers=1, requests=1)


def test_the_cache_answers_the_same_question_once(tmp_path: Path) -> None:
    def played(server: Server, options: str) -> list[Trajectory]:
        agent = load_agent(server.spec(options))
        found = rollout("echo", agent, episodes(4))
        agent.model.close()  # type: ignore[attr-defined]  # of a ChatAgent
        return found

    with serving(good) as server:
        options = f"cache={tmp_path / 'answers'}&price=1,1"
        first = played(server, options)
        assert len(server.asked) == 8
        second = played(server, options)
        assert len(server.asked) == 8
        assert [t.turns[0].action for t in first] == [t.turns[0].action for t in second]
        assert second[0].meta["usage"]["from_cache"] == 2
        assert "cost" in first[0].meta["usage"]
        assert "cost" not in second[0].meta["usage"]
        played(server, "price=1,1")
        assert len(server.asked) == 16  # off by default
        held = sorted((tmp_path / "answers").rglob("*.json"))
        assert len(held) == 8
        held[0].write_bytes(held[0].read_bytes()[:40])
        held[1].write_text("{}", "utf-8")
        assert all(t.success for t in played(server, options))
        assert len(server.asked) == 18  # what is damaged is asked again


def test_bad_answers_are_not_cached(tmp_path: Path) -> None:
    with serving(after([BAD["no choices"][0]])) as server:
        with pytest.raises(EndpointError):
            one(server, f"cache={tmp_path}")
        assert one(server, f"cache={tmp_path}").action is not None
    assert len(server.asked) == 2


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with serving(good) as server:
        agent = load_agent(server.spec(f"cache={tmp_path / 'file'}"))
        assert all(t.success for t in rollout("echo", agent, episodes(3)))
        agent.model.close()  # type: ignore[attr-defined]  # of a ChatAgent
    assert caplog.text.count("cannot be written") == 1


# ---- commands, judges ------------------------------------------------------------------------------------------------


def test_evaluate_shows_tokens_and_cost_next_to_success() -> None:
    """One of the tasks meets a bad answer: it is excluded, and the rest is what it would be."""

    words = {t.instruction for t in task_set(make("echo"), "test", 4)}
    bad = min(words)

    def behave(asked: Asked) -> None:
        failing = any(m["content"] == bad for m in asked.messages if m["role"] == "user")
        (error(500) if failing else good)(asked)

    with serving(behave) as server:
        command = [
            "evaluate",
            "echo",
            "--agent",
            server.spec("price=1000,1000"),
            "--agent",
            "expert",
            "--faults",
            "clean",
        ]
        done = CliRunner().invoke(app, [*command, "--n", "4", "--max-turn-tokens", "99"])
        asked = len(server.asked)
    assert server.asked[0].body["max_tokens"] == 99
    assert done.exit_code == 0, done.output
    row = next(line for line in done.stdout.splitlines() if line.strip().startswith("m "))
    judged = len(words) - 1
    assert f"n={judged}" in row or f"n={judged}" in done.stdout
    assert "100" in row
    assert f"{200 * judged} + {20 * judged}" in row
    assert f"{0.22 * judged:.2f}" in row
    assert f"Excluded, not judged: {len(words) - judged}" in done.stdout
    assert asked == 2 * judged + len(words) - judged
    expert = next(line for line in done.stdout.splitlines() if line.strip().startswith("expert"))
    assert expert.split()[-2:] == ["-", "-"]


def test_a_table_without_served_models_has_no_such_columns() -> None:
    done = CliRunner().invoke(app, shlex.split("evaluate echo --agent expert --faults clean --n 2"))
    assert done.exit_code == 0
    assert "cost" not in done.stdout


def test_a_stopped_rollout_goes_on_and_knows_its_endpoint(tmp_path: Path) -> None:
    out = tmp_path / "e.jsonl"
    with serving(good) as server, serving(good) as other:
        command = ["rollout", "echo", "--split", "test", "--out", str(out), "--model"]
        assert CliRunner().invoke(app, [*command, server.spec(), "--n", "2"]).exit_code == 0
        before = len(server.asked)
        done = CliRunner().invoke(app, [*command, server.spec("timeout=99"), "--n", "4"])
        assert done.exit_code == 0, done.output
        assert len(server.asked) == 2 * before
        elsewhere = CliRunner().invoke(app, [*command, other.spec(), "--n", "4"])
    assert elsewhere.exit_code == 1
    assert "other settings of the agent" in elsewhere.output
    line = json.loads(out.read_text("utf-8").splitlines()[0])
    assert line["meta"]["endpoint"] == f"openai:{server.url}#m"
    assert "precision" not in line["meta"]


def test_nothing_could_be_judged_is_an_error_that_says_why() -> None:
    with serving(error(500, "out of memory")) as server:
        done = CliRunner().invoke(app, ["rollout", "echo", "--agent", server.spec(), "--n", "2"])
    assert done.exit_code == 1
    assert "HTTP 500: out of memory" in done.output


@pytest.mark.parametrize(
    ("agent", "says"),
    [("openay:http://x/v1#m", "unknown engine 'openay'. Did you mean 'openai'"), ("expertt", "Did you mean 'expert'")],
)
def test_agents_that_there_are_not(agent: str, says: str) -> None:
    done = CliRunner().invoke(app, ["rollout", "echo", "--agent", agent])
    assert done.exit_code == 1
    assert says in done.output


def pairs_of(n: int) -> list[tuple[Trajectory, Trajectory]]:
    spec = episodes(4)
    best, worst = (rollout("echo", scripted(name), spec) for name in ("expert", "do-nothing"))
    return [(best[i % 4], worst[i % 4]) for i in range(n)]


def test_a_judge_loses_the_verdicts_that_failed_and_no_others(caplog: pytest.LogCaptureFixture) -> None:
    count = [0]

    def behave(asked: Asked) -> None:
        count[0] += 1
        (error(500) if count[0] % 4 == 0 else said(200, answer({"content": "Verdict: A"})))(asked)

    with serving(behave) as server:
        judge = Judge(load_chat_model(server.spec("price=1,1")))
        verdicts = judge.many(pairs_of(12))
        judge.close()
        judge.model.close()  # type: ignore[attr-defined]  # an endpoint has it
    assert Counter(verdicts) == {"a": 9, None: 3}
    assert "3 of 12 questions to the judge failed" in caplog.text
    assert (judge.usage.answers, judge.usage.requests) == (9, 12)
    assert judge.usage.cost == pytest.approx(9 * 110 / 1e6)


def test_a_judge_that_is_not_there_is_an_error_and_no_lack_of_preferences() -> None:
    with serving(error(500, "gone")) as server:
        judge = Judge(load_chat_model(server.spec()))
        groups = [TrajectoryGroup(pair) for pair in pairs_of(4)]
        with pytest.raises(EndpointError, match="HTTP 500: gone"):
            judged_pairs(groups, judge)
        judge.close()
        judge.model.close()  # type: ignore[attr-defined]  # an endpoint has it


def test_a_reward_by_a_judge_whose_server_fails_is_no_reward() -> None:
    from sparring.envs.rewards import judged

    with serving(error(503, retry_after="0")) as server:
        judge = Judge(load_chat_model(server.spec("retries=1")))

        def graded() -> Any:
            env = make("echo")
            env.reward_terms = {"graded": judged(judge.ask, "Short is good.")}
            return env

        played = rollout(graded, scripted("expert"), episodes(3))
        judge.close()
        judge.model.close()  # type: ignore[attr-defined]  # an endpoint has it
    assert [t.stop for t in played] == [StopReason.INFRASTRUCTURE] * 3
    assert not any(t.judged or t.reward for t in played)


def test_a_user_whose_words_come_from_an_endpoint() -> None:
    """The agent asks, the user answers; where the user's server fails, the episode is not judged."""
    task = task_set(make("echo"), "test", 1)[0]
    word = task.instruction.removeprefix("Say ").rstrip(".")

    def played(server: Server) -> Trajectory:
        model = load_chat_model(server.spec("timeout=60"))
        judge = Judge(model)

        def env() -> ToolEnv:
            made = make("echo")
            made.user = User(lambda env, said: judge.ask(f"You want {word}. Somebody asks: {said}"), max_answers=1)
            return made

        agent = ChatAgent(FakeChatModel([Action("Which?"), Action.call("say", word=word), Action("Done.")]))
        found = rollout(env, agent, [EpisodeSpec(task)])[0]
        judge.close()
        model.close()  # type: ignore[attr-defined]  # an endpoint has it
        return found

    with serving(said(200, answer({"content": "The word of the task."}))) as server:
        t = played(server)
    assert [m.content for m in t.turns[0].messages] == ["The word of the task."]
    asked = [a.messages[-1]["content"] for a in server.asked]  # the expert, who is played first, ends with a word too
    assert f"You want {word}. Somebody asks: Which?" in asked
    assert t.success is True
    with serving(error(500)) as server:
        t = played(server)
    assert (t.stop, t.success, t.judged) == (StopReason.INFRASTRUCTURE, None, False)


def test_the_judge_of_a_command(tmp_path: Path) -> None:
    data, out = tmp_path / "groups.jsonl", tmp_path / "pairs.jsonl"
    data.write_bytes(b"".join(t.to_json() + b"\n" for pair in pairs_of(4) for t in pair))

    def behave(asked: Asked) -> None:
        first = asked.messages[0]["content"].partition("Transcript B:")[0]
        asked.give(200, answer({"content": f"Verdict: {'A' if 'say' in first.partition('Transcript A:')[2] else 'B'}"}))

    with serving(behave) as server:
        rule = f"pairs by=judge judge={server.spec('retries=1&price=1,2')}"
        done = CliRunner().invoke(app, ["curate", str(data), "--rule", rule, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert len(out.read_text("utf-8").splitlines()) == 4


def test_the_program_ends_with_questions_under_way(repository: Path) -> None:
    """No thread and no connection holds it up, and nothing is printed."""
    with serving(never) as server:
        code = (
            "import asyncio\n"
            "from sparring.agents import load_chat_model\n"
            "from sparring.agents.chat_model import ChatSettings\n"
            "from sparring.trajectories.messages import Message\n"
            f"model = load_chat_model({server.spec()!r})\n"
            "async def main():\n"
            "    asked = asyncio.create_task(model.answer([Message('user', 'Hi.')], (), ChatSettings()))\n"
            "    await asyncio.sleep(1.0)\n"
            "asyncio.run(main())\n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(repository / "src")},
        )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", ["evaluation.md"])
def test_the_commands_of_the_documents_run(
    page: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those fenced as console; those that need a server are fenced as text, and their options are tried above."""
    monkeypatch.chdir(tmp_path)
    text = (repository / "docs" / page).read_text("utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 4
    for line in commands:
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, f"{line}: {done.output} {done.exception}"
