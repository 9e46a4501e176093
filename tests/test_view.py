"""The live page: what is written appears, once; only who has the address is served, and only with GET."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sparring.trajectories.errors import ConfigError, DataError
from sparring.trajectories.locks import only_process_in, only_writer_of
from sparring.trajectories.messages import Action, Cause, Message, Outcome, ToolCall, ToolResult
from sparring.trajectories.pages.live import LiveView, ViewServer
from sparring.trajectories.pages.report.embed import Lines
from sparring.trajectories.pages.report.tokenizer import find_tokenizer, token_texts
from sparring.trajectories.store import Store
from sparring.trajectories.trajectory import StopReason, Task, Tokens, Trajectory, Turn, dump_jsonl

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 2'>\x1b[31m\u202e<|im_end|>"


def episode(i: int, success: bool | None = True, text: str = "fine", agent: str = "expert") -> Trajectory:
    failed = ToolResult("c1", "pay", Outcome.TIMEOUT, text, cause=Cause.INJECTED, took_effect=None, fault="flapping")
    return Trajectory(
        id=f"e{i}",
        env="test/Pay-v0",
        task=Task(f"pay bill {i} {text}", id=f"t{i}"),
        prompt=(Message("system", text),),
        turns=(Turn(Action(text, (ToolCall("pay", {"note": text}),)), (failed,)), Turn(Action("Done."))),
        stop=StopReason.FINISHED,
        success=success,
        reward=float(success or 0),
        agent=agent,
        tokens=Tokens((7, 8, 9), (0, 1, 1), (0.0, -0.5, -0.25)),
    )


def everything(view: LiveView) -> dict[str, Any]:
    """All lines, as the page fetches them."""
    got: dict[str, Any] = {"epoch": 0, "lines": []}
    while True:
        more = view.lines(len(got["lines"]), got["epoch"])
        lines = more["lines"] if more["epoch"] != got["epoch"] else got["lines"] + more["lines"]
        got = {**more, "lines": lines}
        if len(lines) >= more["total"]:
            return got


def shown(view: LiveView) -> list[str]:
    """Ids of the episodes that the page has."""
    return [json.loads(line.split("\t")[0])[8] for line in everything(view)["lines"] if line.startswith("[")]


def ids(*numbers: int) -> list[str]:
    return [f"e{i}" for i in numbers]


# ---- what is looked at -----------------------------------------------------------------------------------------------


def test_a_file_that_grows(tmp_path: Path) -> None:
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(dump_jsonl([episode(0), episode(1)]))
    view = LiveView(file)
    assert shown(view) == ids(0, 1)
    line = episode(2).to_json() + b"\n"
    with file.open("ab", buffering=0) as out:
        out.write(line[:100])
        assert shown(view) == ids(0, 1)
        out.write(line[100:] + b"no episode\n" + episode(3).to_json() + b"\n")
    assert shown(view) == ids(0, 1, 2, 3)
    assert everything(view)["problem"] == "1 line could not be read"


def test_a_file_that_is_written_anew(tmp_path: Path) -> None:
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(dump_jsonl([episode(0), episode(1)]))
    view = LiveView(file)
    before = everything(view)
    file.write_bytes(dump_jsonl([episode(5)]))
    assert shown(view) == ids(5)
    assert everything(view)["epoch"] > before["epoch"]


def test_a_store_is_followed_through_sealing(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        for i in range(3):
            store.append(episode(i))
        store.seal()
        store.append(episode(3))
        view = LiveView(tmp_path / "store")
        assert shown(view) == ids(0, 1, 2, 3)
        store.append(episode(4))
        store.append(episode(3))  # once more, by someone who did not know that it was there
        assert shown(view) == ids(0, 1, 2, 3, 4)
        store.append(episode(5))
        store.seal()  # the page has not seen it yet
        store.append(episode(6))
        assert shown(view) == ids(0, 1, 2, 3, 4, 5, 6)
        store.gc()  # parts are merged into one of another name
        store.append(episode(7))
        assert shown(view) == ids(0, 1, 2, 3, 4, 5, 6, 7)
        assert everything(view)["problem"] == ""


def test_a_store_of_another_process_is_followed(tmp_path: Path) -> None:
    Store(tmp_path / "store").close()
    view = LiveView(tmp_path / "store")
    assert shown(view) == []
    code = "import sys; from sparring.trajectories.store import Store\n"
    code += "from sparring import Trajectory\n"
    code += "s = Store(sys.argv[1])\nfor line in open(sys.argv[2], 'rb'): s.append(Trajectory.from_json(line))\n"
    code += "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    (tmp_path / "in.jsonl").write_bytes(dump_jsonl([episode(i) for i in range(5)]))
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store"), str(tmp_path / "in.jsonl")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        timeout=60,
    )
    assert process.returncode == -signal.SIGKILL
    assert shown(view) == ids(0, 1, 2, 3, 4)


def test_the_folder_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "02-eval/SFT").mkdir(parents=True)
    (run / "02-eval/SFT/clean.jsonl").write_bytes(dump_jsonl([episode(0)]))
    view = LiveView(run)
    assert shown(view) == ids(0)
    (run / "03-grpo").mkdir()
    (run / "03-grpo/metrics.jsonl").write_text('{"step": 0, "loss": 0.5, "kl": null}\n{"step": 1, "loss": 0.25}\n{"st')
    with Store(run / "store") as store:
        store.append(episode(1))
    (run / "new.jsonl").write_bytes(dump_jsonl([episode(2)]))
    assert sorted(shown(view)) == ids(0, 1, 2)
    summary = view.summary("") or ""
    assert "run/03-grpo" in summary
    assert "loss" in summary
    assert "100%" in summary


def test_whether_a_run_is_running_is_said(tmp_path: Path) -> None:
    """The page says so while it is open, and not only the command at its start."""
    run = tmp_path / "run"
    run.mkdir()
    view = LiveView(run)
    assert "running" not in (view.summary("") or "")  # of a folder that is no run's, nobody knows
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 0.25}\n')
    assert "not running" in (LiveView(run).summary("") or "")
    with only_process_in(run):
        assert f"running: process {os.getpid()}: " in (LiveView(run).summary("") or "")
    assert "not running" in (LiveView(run).summary("") or "")
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(dump_jsonl([episode(0)]))
    with only_writer_of(file):
        assert f"running: process {os.getpid()}: " in (LiveView(file).summary("") or "")


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(dump_jsonl([episode(i) for i in range(30)]))
    view = LiveView(file, newest=10)
    assert shown(view) == ids(*range(20, 30))
    first = everything(view)
    with file.open("ab") as out:
        out.write(dump_jsonl([episode(i) for i in range(30, 40)]))
    assert shown(view) == ids(*range(30, 40))
    assert everything(view)["epoch"] > first["epoch"]
    (tmp_path / "store").mkdir()
    with Store(tmp_path / "store", part_episodes=8) as store:
        for i in range(30):
            store.append(episode(i))
        store.seal()
    assert shown(LiveView(tmp_path / "store", newest=10)) == ids(*range(20, 30))


def test_lines_that_are_let_go_of_leave_what_others_share() -> None:
    lines = Lines(decode=str)
    lines.add("a", "c", [episode(i) for i in range(4)])
    prompts = [line for line in lines.lines if line[0] in "=+"]
    lines.forget(3)
    assert [line for line in lines.lines if line[0] in "=+"] == prompts
    assert lines.episodes == 1
    assert lines.place("a", "c", episode(3)) == 0
    assert lines.place("a", "c", episode(2)) is None


def test_numbers_are_made_anew_when_something_came_and_not_too_often(tmp_path: Path) -> None:
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(dump_jsonl([episode(0, True), episode(1, False)]))
    now = [0.0]
    view = LiveView(file, clock=lambda: now[0])
    everything(view)
    page = view.summary("") or ""
    version = page.split('data-version="')[1].split('"')[0]
    assert "50%" in page
    assert view.summary(version) is None
    with file.open("ab") as out:
        out.write(dump_jsonl([episode(2, True), episode(3, True)]))
    everything(view)
    assert "75%" in (view.summary(version) or "")


def test_what_cannot_be_looked_at_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is nothing at"):
        LiveView(tmp_path / "none")
    with pytest.raises(ConfigError, match="at least one"):
        LiveView(tmp_path, newest=0)
    with pytest.raises(DataError, match=r"holds no tokenizer\.json"):
        token_texts(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is no tokenizer"):
        token_texts(tmp_path)


def test_tokens_say_what_the_model_s_tokenizer_says(tiny_qwen3: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_qwen3, tmp_path / "run/05-sft/model")
    folder = find_tokenizer(tmp_path / "run")
    assert folder == tmp_path / "run/05-sft/model"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = token_texts(folder)
    found = tokenizer.encode("pay <|im_end|>", add_special_tokens=False).ids
    assert "".join(map(text, found)) == "pay <|im_end|>"
    assert text(10**9) == text(-1) == ""


# ---- the server ------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ViewServer]:
    (tmp_path / "episodes.jsonl").write_bytes(dump_jsonl([episode(0, True, HOSTILE, HOSTILE)]))
    server = ViewServer(LiveView(tmp_path / "episodes.jsonl"), title=HOSTILE)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server
    server.close()
    thread.join(10)
    assert not thread.is_alive()


def ask(server: ViewServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()


def test_what_it_answers_and_with_which_headers(served: ViewServer) -> None:
    status, headers, body = ask(served, f"/{served.token}/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert b"window.ran" not in body.replace(b"&lt;/script&gt;&lt;script&gt;window.ran", b"").replace(
        b"onerror=&#39;window.ran", b""
    )
    status, headers, body = ask(served, f"/{served.token}/lines?from=0&epoch=")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body)["total"] == len(json.loads(body)["lines"]) == 2
    assert json.loads(ask(served, f"/{served.token}/lines?from=2&epoch=1")[2])["lines"] == []
    status, _, body = ask(served, f"/{served.token}/summary?have=")
    assert (status, b"100%" in body, b"<script" in body) == (200, True, False)
    version = body.split(b'data-version="')[1].split(b'"')[0].decode()
    assert ask(served, f"/{served.token}/summary?have={version}")[0] == 204


@pytest.mark.parametrize("path", ["/", "/{t}", "/{t}x/", "/x{t}/", "/{u}/", "/\xff/", "/{t}/../x", "/{t}/etc"])
def test_without_the_token_there_is_nothing(served: ViewServer, path: str) -> None:
    path = path.format(t=served.token, u=served.token.swapcase())
    if not path.isascii():
        path = "/%FF/"
    assert ask(served, path)[0] == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{p}", "", "[::1]:{p}"]
)
def test_another_host_s_name_is_refused(served: ViewServer, host: str) -> None:
    assert ask(served, f"/{served.token}/", Host=host.format(p=served.port))[0] == 403


def test_localhost_is_this_machine_too(served: ViewServer) -> None:
    assert ask(served, f"/{served.token}/", Host=f"localhost:{served.port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW"])
def test_only_get_is_answered(served: ViewServer, method: str) -> None:
    status, headers, _ = ask(served, f"/{served.token}/", method)
    assert (status, headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "query", ["from=-5", "from=x", "from=" + "9" * 50, "from=99999999", "epoch=\u00e9", "from=0&from=1"]
)
def test_odd_questions_are_answered(served: ViewServer, query: str) -> None:
    from urllib.parse import quote

    status, _, body = ask(served, f"/{served.token}/lines?{quote(query, safe='=&')}")
    assert status == 200
    assert isinstance(json.loads(body)["lines"], list)


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\n\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 70_000]
)
def test_what_is_no_request_harms_nothing(served: ViewServer, junk: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(junk + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    assert ask(served, f"/{served.token}/")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_port_that_is_taken_is_said(served: ViewServer) -> None:
    with pytest.raises(ConfigError, match=f"port {served.port} cannot be had"):
        ViewServer(served.view, title="second", port=served.port)


def test_only_this_machine_can_connect(served: ViewServer) -> None:
    assert served.url.startswith(f"http://127.0.0.1:{served.port}/")
    assert len(served.token) >= 32


# ---- the command, and the page in a browser --------------------------------------------------------------------------


Started = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def started() -> Iterator[Started]:
    """Starts `sparring view --no-open`; the process, and where it serves."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", "from sparring.cli.root import main; main()", "view", "--no-open", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " at http://127.0.0.1:" in line, process.communicate()
        return process, line.split(" at ")[1].split()[0]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_ctrl_c_ends_it(started: Started, tmp_path: Path) -> None:
    process, _ = started(str(tmp_path))
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out, errors) == (0, "\nended\n", "")


def test_new_episodes_appear_in_the_browser(started: Started, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs Chromium")
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(dump_jsonl([episode(0, False, HOSTILE, HOSTILE)]))
    process, url = started(str(file))
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page()
        said: list[str] = []
        asked: set[str] = set()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.add(request.url.partition("?")[0].removeprefix(url)))
        page.goto(url)
        page.locator("#count", has_text="1 episode").wait_for(timeout=15_000)
        page.wait_for_selector("#summary h2")
        page.evaluate("document.querySelector('#summary details.cond').open = false")
        with file.open("ab") as out:
            out.write(dump_jsonl([episode(i) for i in range(1, 4)]))
        page.locator("#count", has_text="4 episodes").wait_for(timeout=15_000)
        page.locator("#success", has_text="3/4").wait_for(timeout=15_000)
        assert page.inner_text("#state") == "live"
        assert page.evaluate("window.ran") is None
        assert page.inner_text("#episode h3").startswith("pay bill 0 </script><script>")  # where the reader was
        page.select_option("#order", "newest")
        page.keyboard.press("Tab")
        page.focus("#list")
        page.keyboard.press("Home")
        assert page.inner_text("#episode h3") == "pay bill 3 fine"
        assert said == []
        assert asked == {"", "lines", "summary"}
        process.send_signal(signal.SIGINT)
        page.locator("#state", has_text="no answer").wait_for(timeout=15_000)
        assert page.inner_text("#episode h3") == "pay bill 3 fine"  # still to be read
        browser.close()
