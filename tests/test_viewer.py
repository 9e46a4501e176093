"""The report in a real browser: nothing that an episode holds runs, everything can be read, reached and found."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparring.trajectories.messages import Action, Cause, Json, Message, Outcome, ToolCall, ToolResult
from sparring.trajectories.pages.report import Arm, Report, show_trajectory, visible, write_report
from sparring.trajectories.trajectory import Fork, StopReason, Task, Tokens, Trajectory, Turn

HOSTILE = (
    "<|im_end|>\n<|im_start|>system\n</script><script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"
    "<svg onload='window.ran = 3'><style>body{display:none}</style><a href='javascript:window.ran = 4'>a</a> -->]]>"
    "{{ 7 * 7 }} \x1b[31mred\x1b]0;title\x07 \u202eevil\u202c \u2028 \ud800 \x00 \ufeff \U000e0041"
)
DEEP: Json = {}
for _ in range(60):
    DEEP = {"a": DEEP, "</script><script>window.ran = 5</script>": "<b>"}


def episode(
    i: int, success: bool | None = True, text: str = "fine", *, arguments: Json = None, fault: str = "", **more: Any
) -> Trajectory:
    """A call that fails, the same call again, and a last word."""
    call = ToolCall("pay", {"note": text} if arguments is None else arguments)
    failed = ToolResult(
        "c1", "pay", Outcome.TIMEOUT, text, cause=Cause.INJECTED, took_effect=None, fault=fault or "flaky"
    )
    worked = ToolResult("c2", "pay", Outcome.OK, text, value=1, took_effect=True, retry_of="c1")
    return Trajectory(
        id=f"e{i}",
        env="test/Pay-v0",
        task=Task(f"pay bill {i} {text}", id=f"t{i}"),
        prompt=(Message("system", text),),
        turns=(
            Turn(Action(text, (call,)), (failed,), weight=0.0),
            Turn(Action("", (call,)), (worked,), messages=(Message("user", text),)),
            Turn(Action("", (ToolCall("", None, text, error=text),))),
            Turn(Action(f"Paid bill {i}.")),
        ),
        stop=StopReason.FINISHED if success is not None else StopReason.INFRASTRUCTURE,
        success=success,
        faults=fault,
        faults_hit=(fault,) if fault else (),
        reward=float(success or 0),
        reward_parts={text: 1.0},
        **more,
    )


def sampled(t: Trajectory) -> Trajectory:
    """With six tokens, of which the third and fourth were sampled, at p = 0.5 and near 0."""
    return replace(t, tokens=Tokens((7, 8, 9, 10, 11, 12), (0, 0, 1, 1, 0, 0), (0.0, 0.0, -0.6931, -9.0, 0.0, 0.0)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, as the system has it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Tab:
    """A page that was opened, and what it did next to being shown."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.page = browser.new_page(**{"viewport": {"width": 1400, "height": 1000}, **options})
        self.requests: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def text(self, of: str = "body") -> str:
        return str(self.page.inner_text(of))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def title(self) -> str:
        return self.text("#episode h3")

    def wait_for_count(self, text: str) -> None:
        self.page.locator(f"#count:text-is({text!r})").wait_for(timeout=10_000)

    @property
    def ran(self) -> Any:
        return self.page.evaluate("window.ran")


Opened = Callable[..., Tab]


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    """Writes a report of episodes, or takes one, and opens it."""
    tabs: list[Tab] = []

    def open_(what: Report | list[Trajectory], **options: Any) -> Tab:
        report = what if isinstance(what, Report) else Report("R", arms=[Arm("a", "", {"clean": what})])
        tabs.append(Tab(browser, write_report(report, tmp_path / "report.html", episodes_per_cell=10_000), **options))
        return tabs[-1]

    yield open_
    for tab in tabs:
        tab.page.close()


def test_hostile_episodes_are_shown_and_nothing_runs(opened: Opened) -> None:
    big = episode(1, False, "x" * 1_000_000)
    fork = replace(
        episode(2, True, HOSTILE), forked_from=Fork(HOSTILE, 1), agent=HOSTILE, error=HOSTILE, faults=HOSTILE
    )
    vile = sampled(replace(episode(0, False, HOSTILE, arguments=DEEP, fault=HOSTILE), id=HOSTILE))
    arms = [Arm(HOSTILE, HOSTILE, {HOSTILE: [vile, big, fork]}), Arm("b", "", {HOSTILE: [episode(0)]})]
    rows: list[dict[str, float]] = [{"step": 0, HOSTILE: 1.0}, {"step": 1, HOSTILE: 2.0}]
    tab = opened(
        Report(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, arms, {HOSTILE: rows}, "b", decode=lambda i: f"{HOSTILE}{i}")
    )
    shown = visible(HOSTILE)
    for _ in range(3):
        said = tab.text("#episode")
        assert tab.ran is None
        assert said
        tab.press("j")
    tab.press("k", "k", "k")
    said = tab.text("#episode")
    for piece in ("<|im_end|>", "</script><script>window.ran = 1</script>", "\\x1b[31mred", "\\u202eevil", "\\ud800"):
        assert piece in shown
        assert piece in said
        assert piece in tab.text("h1") or piece.startswith("<|")
    tab.press("t")
    tab.page.hover(".sampled .t")
    assert "\\x1b[31mred" in tab.text(".tokens")
    assert "probability 0.500" in tab.text(".readout")
    tab.press("/")
    tab.page.keyboard.type("</script> <img")
    tab.wait_for_count("3 of 4 episodes")  # it is in the name of their arm
    assert tab.ran is None
    assert tab.said == []
    assert len(tab.requests) == 1  # the page itself
    assert "49" not in tab.text("h1")
    assert tab.page.evaluate("document.querySelectorAll('script, img, svg[onload], style').length") == 2


def test_a_result_of_a_megabyte_is_cut_and_says_so(opened: Opened) -> None:
    tab = opened([episode(0, True, "<b>" * 350_000)])
    assert "[1,030,000 more characters, not shown]" in tab.text("#episode")


def test_the_keyboard_reaches_everything(opened: Opened) -> None:
    tab = opened([sampled(episode(i, i % 2 == 0)) for i in range(40)])
    assert tab.title() == "pay bill 0 fine"
    tab.press("j", "j", "j", "k")
    assert tab.title() == "pay bill 2 fine"
    assert tab.page.evaluate("document.activeElement.id") == "list"
    active = tab.page.get_attribute("#list", "aria-activedescendant")
    assert tab.page.get_attribute(f"#{active}", "aria-selected") == "true"
    tab.press("End")
    assert tab.title() == "pay bill 39 fine"
    tab.press("ArrowUp", "Home", "ArrowDown")
    assert tab.title() == "pay bill 1 fine"
    tab.press("/")
    assert tab.page.evaluate("document.activeElement.id") == "search"
    tab.page.keyboard.type("BILL 33")
    tab.wait_for_count("1 of 40 episodes")
    assert tab.title() == "pay bill 33 fine"
    tab.press("j")  # typed, not obeyed
    tab.wait_for_count("0 of 40 episodes")
    assert "No episode matches." in tab.text("#episode")
    tab.press("Escape")
    tab.wait_for_count("40 episodes")
    assert tab.page.evaluate("document.activeElement.id") == "list"
    tab.press("t")
    assert tab.page.get_attribute(".modes button:has-text('Tokens')", "aria-pressed") == "true"
    tab.page.focus(".tokens")
    tab.press("ArrowRight", "ArrowRight", "ArrowRight")
    assert "token 3, id 9: sampled, probability 0.500" in tab.text(".readout")
    tab.press("ArrowLeft")
    assert "token 2, id 8: not sampled, masked" in tab.text(".readout")
    outline = tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_filters_and_order_narrow_the_list(opened: Opened) -> None:
    clean = [episode(i, i < 3) for i in range(5)]
    faulty = [episode(i, i < 1, fault="flapping") for i in range(5)] + [episode(9, None)]
    tab = opened(Report("R", arms=[Arm("x", "", {"clean": clean}), Arm("y", "", {"faulty": faulty})]))
    tab.wait_for_count("11 episodes")
    for select, value, count in (("arm", "y", 6), ("verdict", "0", 4), ("fault", "flapping", 4), ("verdict", "2", 0)):
        tab.page.select_option(f"#{select}", value)
        tab.wait_for_count(f"{count} of 11 episodes")
    for select in ("arm", "verdict", "fault"):
        tab.page.select_option(f"#{select}", "")
    tab.page.select_option("#order", "best")
    tab.wait_for_count("11 episodes")
    tab.press("Home")
    tab.page.focus("#list")
    tab.press("Home")
    assert "success" in tab.text("#episode .chips")
    tab.press("End")
    assert "✓" not in tab.text("#episode .chips >> nth=0")


def test_forks_are_a_tree_that_can_be_walked(opened: Opened) -> None:
    root, left = episode(0, False), replace(episode(1, True), forked_from=Fork("e0", 1))
    leaf, other = replace(episode(2, True), forked_from=Fork("e1", 2)), episode(3)
    loop = [replace(episode(i, True), forked_from=Fork(f"e{9 - i}", 1)) for i in (4, 5)]  # each the other's parent
    tab = opened([root, left, leaf, other, *loop, replace(episode(6), forked_from=Fork("gone", 2))])
    assert tab.page.locator(".forks li").count() == 3
    assert tab.page.locator(".forks ul ul ul button").inner_text().startswith("✓after turn 2: 4 turns, reward 1")
    tab.page.click(".forks ul ul ul button")
    assert tab.title() == "pay bill 2 fine"
    assert tab.page.locator(".forks [aria-current]").inner_text().endswith("e2")
    tab.press("j")
    assert tab.page.locator(".forks").count() == 0
    tab.press("j")
    assert tab.page.locator(".forks li").count() == 2
    tab.press("j", "j")
    assert "Branched off gone, which is not in this page, after 2 turns." in tab.text(".forks")
    assert tab.said == []


def test_what_is_not_trained_on_is_marked(opened: Opened) -> None:
    tab = opened([sampled(episode(0))])
    assert tab.page.locator(".said.masked").count() == 1
    assert "weight 0: context, not trained on" in tab.text(".said.masked")
    tab.press("t")
    assert tab.page.locator(".given .t").count() == 4
    assert tab.page.locator(".sampled .t").count() == 2
    assert tab.page.locator(".sampled .p4").count() == 1


def test_the_best_and_the_worst_open_in_the_viewer(opened: Opened) -> None:
    tab = opened([episode(i, i == 5) for i in range(12)])
    tab.page.select_option("#verdict", "0")
    tab.page.click("#extremes .columns > div:first-child button >> nth=0")
    tab.wait_for_count("12 episodes")  # it was not among those that were listed
    assert tab.title() == "pay bill 5 fine"
    assert tab.page.evaluate("document.activeElement.id") == "list"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_and_can_be_told_apart(opened: Opened, width: int, scheme: str) -> None:
    rows: list[dict[str, float]] = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 2.0}]
    many: dict[str, Sequence[Trajectory]] = {
        name: [sampled(episode(i, i % 3 == 0, fault="flapping")) for i in range(12)] for name in ("a", "b")
    }
    arms = [Arm(f"arm{n}", "note", many) for n in range(4)]
    tab = opened(
        Report("R", "Words.", {"seed": "0"}, arms, {"sft": rows}, "arm0"),
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
    )
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    poor = tab.page.evaluate(CONTRAST)
    assert poor == []
    for role, name in (("listbox", "Episodes"), ("searchbox", "Search in the text"), ("combobox", "Result")):
        assert tab.page.get_by_role(role, name=name).count() == 1
    assert (
        tab.page.evaluate("[...document.querySelectorAll('button, input, select, a, summary')].every(nameOf)") is True
    )


CONTRAST = """() => {
  window.nameOf = (e) => (e.labels?.[0] ?? e).textContent.trim().length > 0;
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (text) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const over = (top, below) => {
    const a = top[3] / 255;
    return [0, 1, 2].map((i) => a * top[i] + (1 - a) * below[i]).concat(255);
  };
  const light = (c) => {
    const linear = (v) => (v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    const [r, g, b] = c.slice(0, 3).map((v) => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const poor = new Set();
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest("svg, script, noscript, .unseen")) continue;
    const chain = [];
    for (let at = e; at; at = at.parentElement) chain.unshift(at);
    let below = [255, 255, 255, 255], strength = 1;
    for (const at of chain) {
      below = over(rgba(getComputedStyle(at).backgroundColor), below);
      strength *= +getComputedStyle(at).opacity;
    }
    const ink = rgba(getComputedStyle(e).color);
    ink[3] *= strength;
    const [a, b] = [light(over(ink, below)), light(below)].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) poor.add(e.tagName + "." + e.className + " " + ratio.toFixed(2));
  }
  return [...poor];
}"""
"""What has less than 4.5 to 1 (WCAG 2.2, 1.4.3), over everything that is shown."""


def test_on_paper_the_controls_are_gone_and_the_tables_stay(opened: Opened) -> None:
    tab = opened([episode(i, i > 2) for i in range(6)])
    tab.page.emulate_media(media="print")
    assert not tab.page.is_visible("#search")
    assert not tab.page.is_visible("#list")
    assert tab.page.is_visible("#success table")
    assert tab.page.is_visible("#episode")


def test_nothing_moves_for_whoever_asked_for_that(opened: Opened) -> None:
    script = "getComputedStyle(document.documentElement).scrollBehavior"
    assert opened([episode(0)]).page.evaluate(script) == "smooth"
    assert opened([episode(0)], reduced_motion="reduce").page.evaluate(script) == "auto"


def test_the_terminal_shows_what_nests_too_deeply() -> None:
    import io

    from rich.console import Console

    deep: Json = {}
    for _ in range(5_000):
        deep = {"a": deep}
    out = io.StringIO()
    Console(file=out, width=80, color_system=None).print(show_trajectory(episode(0, True, HOSTILE, arguments=deep)))
    assert "(nested too deeply to be shown)" in out.getvalue()
    assert "\x1b" not in out.getvalue()


@pytest.mark.slow
def test_five_thousand_episodes_stay_smooth(browser: Any, tmp_path: Path) -> None:
    """Bounds are several times what an idle core takes; the measured figures are in the documentation."""
    tokens = Tokens(tuple(range(400)), (0,) * 200 + (1,) * 200, (0.0,) * 200 + (-0.25,) * 200)
    every = [replace(episode(i, i % 3 == 0, f"words {i * 7919 % 10007} " * 20), tokens=tokens) for i in range(5_000)]
    path = write_report(Report("R", arms=[Arm("a", "", {"c": every})]), tmp_path / "r.html", episodes_per_cell=5_000)
    assert path.stat().st_size < 8e6
    context = browser.new_context()
    context.add_init_script(
        "window.longest = 0; new PerformanceObserver((l) => l.getEntries().forEach((e) => {"
        "window.longest = Math.max(window.longest, e.duration); })).observe({ type: 'longtask', buffered: true });"
    )
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    assert page.inner_text("#count") == "5,000 episodes"
    assert page.locator(".row").count() < 60
    page.evaluate("window.longest = 0")
    page.fill("#search", "bill 4321")
    page.locator("#count:text-is('1 of 5,000 episodes')").wait_for(timeout=5_000)
    page.fill("#search", "")
    page.locator("#count:text-is('5,000 episodes')").wait_for(timeout=5_000)
    for top in range(0, 200_000, 5_000):
        page.evaluate("top => { document.getElementById('list').scrollTop = top; }", top)
    page.focus("#list")
    page.keyboard.press("End")
    assert page.inner_text("#episode h3").startswith("pay bill 4999")
    assert page.evaluate("window.longest") < 500
    context.close()
