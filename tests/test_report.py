"""The report is one file that fetches nothing, says what the numbers hold, and shows hostile text as text."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from sparring.trajectories.errors import ConfigError, UnknownName
from sparring.trajectories.messages import Action, Cause, Message, Outcome, ToolCall, ToolResult
from sparring.trajectories.pages.report import Arm, Report, show_trajectory, text_table, visible, write_report
from sparring.trajectories.pages.report.embed import sample
from sparring.trajectories.pages.report.svg import curves
from sparring.trajectories.trajectory import StopReason, Task, Trajectory, Turn

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>& <!--"
    "\x1b[31mred\x1b]0;t\x07\x9b2J\u202eevil\ud800\u2028"
)
unhurried = settings(deadline=None, max_examples=50)


def episode(i: int, success: bool | None, text: str = "fine", fault: str = "") -> Trajectory:
    failed = ToolResult(
        "c1", "pay", Outcome.TIMEOUT, text, cause=Cause.INJECTED, took_effect=None, fault=fault or "flaky"
    )
    worked = ToolResult("c2", "pay", Outcome.OK, text, value=1, took_effect=True, retry_of="c1")
    action = Action(text, (ToolCall("pay", {"note": text}),))
    return Trajectory(
        id=f"e{i}",
        env="test/Pay-v0",
        task=Task(f"pay {i} {text}", id=f"t{i}"),
        prompt=(Message("system", text),),
        turns=(Turn(action, (failed,)), Turn(action, (worked,)), Turn(Action("", (ToolCall("", None, text),)))),
        stop=StopReason.FINISHED if success is not None else StopReason.INFRASTRUCTURE,
        success=success,
        faults=fault,
        faults_hit=(fault,) if fault else (),
        reward=float(success or 0),
        reward_parts={"state": 1.0},
    )


def arms(n: int = 12) -> list[Arm]:
    """Of n: GRPO wins all, SFT every third; on clean tasks both win all; GRPO alone was tried on held-out tasks."""
    clean = [episode(i, True) for i in range(n)]
    third = [episode(i, i % 3 == 0, fault="flaky") for i in range(n)]
    return [
        Arm("SFT", "gold traces", {"clean": clean, "one fault": third}),
        Arm("GRPO", "with faults", {
            "clean": clean,
            "one fault": [episode(i, True, fault="flaky") for i in range(n)],
            "held-out": [episode(0, None), episode(1, False)],
        }),
    ]  # fmt: skip


class Page(HTMLParser):
    """Elements, attributes and text of a page; the contents of script and style apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((tag, ""))
        if tag not in ("meta", "input", "rect", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line", "circle", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.raw[-1] = (self.open[-1], self.raw[-1][1] + data)
        else:
            self.text += data

    @property
    def lines(self) -> list[str]:
        """What the viewer unpacks."""
        chunks = next(body for tag, body in self.raw if tag == "script").split()
        return [line for chunk in chunks for line in zlib.decompress(base64.b64decode(chunk)).decode().split("\n")]

    @property
    def episodes(self) -> list[list[Any]]:
        """[head, body] of each, and its tokens where it has some."""
        return [[json.loads(part) for part in line.split("\t")] for line in self.lines if line.startswith("[")]


def written(report: Report, folder: Path, **settings: int) -> Page:
    page = Page(write_report(report, folder / "deep" / "report.html", **settings).read_text(encoding="utf-8"))
    assert page.open == []
    return page


def printed(what: RenderableType, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(what)
    return out.getvalue()


def test_the_headline_states_the_comparison(tmp_path: Path) -> None:
    page = written(Report("Recovery", "One.\n\nTwo.", {"seed": "0"}, arms(), baseline="SFT"), tmp_path)
    text = " ".join(page.text.split())
    # 8 of 12 pairs are won by GRPO alone: p = 2 / 2^8 = .0078, and twice that after Holm for two comparisons.
    assert "Under “one fault”, GRPO succeeded in 100% of 12 episodes (95% interval 76 to 100%)" in text
    assert "the baseline SFT in 33% of 12 episodes" in text
    assert "On 12 pairs with the same task and faults the difference is +66.7 points" in text
    assert "exact McNemar p=0.008, or p=0.016 after Holm's correction for the 2 comparisons" in text
    assert "1 of 50 episodes could not be judged" in text


def test_a_difference_that_could_be_luck_is_called_so(tmp_path: Path) -> None:
    page = written(Report("R", arms=arms(3), baseline="SFT", headline_arm="GRPO"), tmp_path)
    assert "not enough to tell the two apart" in page.text
    assert "picked as the best" not in page.text


def test_the_page_fetches_nothing_and_admits_only_its_own_code(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5}]
    page = written(Report("R", arms=arms(), curves={"sft": rows}), tmp_path)
    assert not {"link", "img", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    loads = {"src", "srcset", "style", "action"}
    assert not [a for _, attrs in page.tags for a in attrs if a in loads or a.startswith("on")]
    assert {(attrs["href"] or "")[0] for _, attrs in page.tags if "href" in attrs} == {"#"}
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag, body in page.raw[:1] + page.raw[2:]:  # the second is the data block
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    whole = (tmp_path / "deep" / "report.html").read_text(encoding="utf-8")
    assert "http:" not in whole
    assert "https:" not in whole
    assert "innerHTML" not in whole


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    arm = Arm(HOSTILE, HOSTILE, {HOSTILE: [episode(0, False, HOSTILE, HOSTILE)]})
    rows: list[dict[str, float]] = [{"step": 0, HOSTILE: 1.0}, {"step": 1, HOSTILE: 2.0}]
    page = written(Report(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, [arm], {HOSTILE: rows}), tmp_path)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "img" not in {tag for tag, _ in page.tags}
    whole = (tmp_path / "deep" / "report.html").read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e]", whole)
    head, body = page.episodes[0]
    assert head[:2] == [visible(HOSTILE)] * 2
    turns = body[8]
    assert turns[0][0] == visible(HOSTILE)
    assert turns[2][3][0] == ["", visible(HOSTILE), "no reason given", 0]


def test_the_page_carries_a_mixture_and_says_so(tmp_path: Path) -> None:
    many = [episode(i, i >= 5) for i in range(100)]
    page = written(Report("R", arms=[Arm("a", "", {"clean": many})]), tmp_path, episodes_per_cell=8, max_chars=3)
    verdicts = [head[2] for head, _ in page.episodes]
    # Eight dealt in turn; the best and the worst five, which the page names, may be others.
    assert 8 <= len(verdicts) <= 18
    assert verdicts.count(0) >= 4
    assert verdicts.count(1) >= 4
    assert f"{len(verdicts)} of the 100 episodes are kept" in page.text
    assert page.episodes[0][1][8][0][0] == "fin\n[1 more characters, not shown]"
    assert [line[0] for line in page.lines].count("=") == 1  # the system prompt, once for all


@unhurried
@given(st.lists(st.sampled_from([True, False, None]), max_size=30), st.integers(0, 12))
def test_a_sample_keeps_order_and_size(verdicts: list[bool | None], cap: int) -> None:
    every = [episode(i, v) for i, v in enumerate(verdicts)]
    kept = [int(t.id[1:]) for t in sample(every, cap)]
    assert len(kept) == min(cap, len(every))
    assert kept == sorted(set(kept))


def test_what_came_after_a_fault_is_counted_and_what_it_called_for_is_marked(tmp_path: Path) -> None:
    # The call that `unavailable` blocked is made again: what that fault calls for, and not what a timeout does.
    def struck(kind: str) -> Trajectory:
        t = episode(0, True, fault=kind)
        return replace(t, turns=t.turns[:2])

    many = [*[struck("unavailable")] * 3, struck("timeout_landed")]
    page = written(Report("R", arms=[Arm("a", "", {"one": many})]), tmp_path)
    cells = [(a.get("class"), a.get("data-label")) for tag, a in page.tags if tag == "td" and "data-label" in a]
    assert ("h9", "retry same") in cells
    assert ("h9 fits", "retry same") in cells
    text = " ".join(page.text.split())
    assert "unavailable100%3 fits3" in text
    assert "timeout_landed100%11" in text


def test_length_and_cost_are_quantiles(tmp_path: Path) -> None:
    held = [replace(episode(i, True), turns=episode(i, True).turns[: 1 + i % 3]) for i in range(30)]
    page = written(Report("R", arms=[Arm("a", "", {"clean": held})]), tmp_path)
    text = " ".join(page.text.split())
    assert "Length and cost of an episode" in text
    assert "Turns 21 to 3" in text  # the median, then the range
    assert "Failed calls 11 to 1" in text


def test_the_best_and_the_worst_are_named_once_each(tmp_path: Path) -> None:
    held = [replace(episode(i, i > 1), reward=float(i)) for i in range(5)]
    page = written(Report("R", arms=[Arm("a", "", {"clean": held})]), tmp_path, episodes_per_cell=1)
    opened = [int(a["data-open"] or -1) for _, a in page.tags if "data-open" in a]
    named = [page.episodes[i][0][8] for i in opened]
    assert named == ["e4", "e3", "e0", "e1"]


def test_a_report_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'SFT'"):
        write_report(Report("R", arms=arms(), baseline="SFTT"), tmp_path / "r.html")
    with pytest.raises(UnknownName, match="clean"):
        write_report(Report("R", arms=arms(), headline_condition="dirty"), tmp_path / "r.html")
    with pytest.raises(ConfigError, match="name of its own"):
        write_report(Report("R", arms=[Arm("a"), Arm("a")]), tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_nothing_is_a_page(tmp_path: Path) -> None:
    assert "No episode could be judged" in written(Report("R", arms=[Arm("a", "", {"clean": []})]), tmp_path).text
    assert written(Report("Only a title"), tmp_path).text.count("Only a title") == 2


def test_a_failed_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(Report("old"), tmp_path / "r.html")

    def full(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_report(Report("new"), path)
    assert "old" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_curves_choose_bin_and_skip_what_is_no_number() -> None:
    rows = [{"step": float(i), "train/loss": 1.0 / (i + 1), "kl": float("nan"), "tps": 5.0} for i in range(450)]
    found = curves("rl", rows)
    assert (len(found.figures), found.bin, found.rows, found.others) == (1, 3, 450, ["tps"])
    assert "train/loss" in found.figures[0]
    assert len(re.findall(r"[\d.]+,[\d.]+", found.figures[0])) == 150
    assert len(curves("x", [{"step": 3.0, "loss": 2.0}]).figures) == 1  # one constant point still has axes


@unhurried
@given(st.lists(st.floats(), min_size=1, max_size=20))
def test_any_numbers_can_be_drawn(values: list[float]) -> None:
    for figure in curves("x", [{"step": float(i), "loss": v} for i, v in enumerate(values)]).figures:
        assert "nan" not in figure
        assert "inf" not in figure


# Terminal


def test_the_table_fits_a_log_file() -> None:
    out = printed(text_table(arms(), "SFT", title="Orders"), 80)
    assert max(map(len, out.splitlines())) <= 80
    assert "33% [14, 61]" in out
    assert "+66.7 p=0.008" in out
    assert "Excluded, not judged: 1." in out


@pytest.mark.parametrize("width", [30, 80])
def test_an_episode_in_the_terminal_cannot_forge_or_control(width: int) -> None:
    forged = HOSTILE + "\n-- result: ok\r-- result: ok " + "x" * 100 + " -- result: ok [bold]markup[/bold]"
    out = printed(show_trajectory(episode(0, False, forged, forged)), width)
    out.encode()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", out)
    flat = " ".join(out.split())
    assert "[bold]markup[/bold]" in flat
    heads = [line for line in out.splitlines() if line.startswith("-- result: ok")]
    assert len(heads) == 1  # the one that is ours
    assert "could not be parsed" in flat


@unhurried
@given(st.text(st.characters(exclude_categories=())))
def test_visible_text_always_encodes_and_is_idempotent(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert visible(shown) == shown
    assert visible("plain\tü 日本\n") == "plain\tü 日本\n"
