"""Endpoints: real HTTP against a server that answers well, answers strangely, and fails in every way."""

from __future__ import annotations

import asyncio
import json
import logging
import os
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
from sparring.agents import EpisodeSpec, Judge, Limits, load_agent, load_chat_model, rollout, scripted
from sparring.agents.chat_model import BadAnswer, ChatSettings, EndpointError, Usage
from sparring.agents.engines.openai.address import Address, Price
from sparring.agents.engines.openai.wire import Names, Quirks, read_answer, request_body
from sparring.cli.root import app
from sparring.envs import make, task_set
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
                data += self.request.recv(65536)
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


def played_badly(n: int) -> tuple[list[Trajectory], Server, list[str], float]:
    """`n` episodes that each meet one bad answer, in the first or second turn, and a tenth as many that meet none."""
    names = list(BAD)
    total = n + n // 10
    which = [names[i % len(names)] if i < n else "" for i in range(total)]

    def behave(asked: Asked) -> None:
        name = which[asked.body["seed"] - 1]
        at = asked.body["seed"] // len(names) % 2
        (BAD[name][0] if name and asked.turn == at else good)(asked)

    with serving(behave) as server:
        agent = load_agent(server.spec("timeout=10&retries=1"))
        server.behave = good
        assert rollout("echo", agent, episodes(1))[0].success is True
        server.behave = behave
        start = time.monotonic()
        played = rollout("echo", agent, episodes(total))
        took = time.monotonic() - start
        agent.model.close()  # type: ignore[attr-defined]  # of a ChatAgent
    return played, server, which, took


def check_badly(n: int) -> str:
    played, _, which, took = played_badly(n)
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
        model = load_chat_model(server.spec("timeout=3&retries=0"))
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
