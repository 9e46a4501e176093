"""`sparring replay`: recorded episodes once more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..agents.replay import Replayed

__all__ = ["replay"]

_WIDTH = 200
_BEFORE = 40
_CUT = "\N{HORIZONTAL ELLIPSIS}"


def replay(
    path: Annotated[
        Path, typer.Argument(metavar="FILE|STORE", help="Episodes: a file, or a store.", show_default=False)
    ],
    id: Annotated[str, typer.Argument(metavar="[ID]", help="Only this episode, or all whose id begins so.")] = "",
    env: Annotated[
        str | None, typer.Option(metavar="ENV", help="Replay in this environment.  [default: the recorded one]")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Differences that are printed in full; all are counted.")] = 5,
) -> None:
    """Play recorded episodes again, and say what now differs. Exits with 1 where something does.

    A store so becomes a regression test of its environment. What cannot be replayed is counted apart.

    \b
    Example:
      sparring replay gold.jsonl
      sparring replay runs/store --show 1
    """
    from ..agents.replay import Replayer
    from ..app.console import watching
    from ..app.records import episodes_in
    from ..app.wording import count
    from ..trajectories.errors import DataError, UnknownName

    total = _number(path) if not id else 0
    replayer = Replayer(env)
    identical, different, apart = 0, Counter[str](), Counter[str]()
    examples: list[Replayed] = []
    others: list[str] = []
    with watching() as watch:
        watch.stage(f"replaying {path}")
        for t in episodes_in(path):
            if not t.id.startswith(id):
                others = [*others, t.id][:8]
                continue
            found = replayer(t)
            if found.unreplayable:
                apart[found.unreplayable] += 1
            elif found.difference is not None:
                different[found.difference.kind.value] += 1
                if len(examples) < show:
                    examples.append(found)
            else:
                identical += 1
            done = identical + different.total() + apart.total()
            watch.progress(done, max(total, done), count(different.total(), "difference"))
    if not identical and not different and not apart:
        raise UnknownName("episode", id, others) if id else DataError(f"{path}: no episode in it")
    for example in examples:
        _show(example)
    typer.echo(f"{identical:,} identical, {different.total():,} different, {apart.total():,} not replayed")
    for kind, n in different.most_common():
        typer.echo(f"  {n:,} first differ in {_WORDS[kind]}")
    for reason, n in apart.most_common():
        typer.echo(f"  {n:,} not replayed: {_visible(reason)}")
    if different.total() > len(examples):
        typer.echo(f"  {count(different.total() - len(examples), 'difference')} not shown: --show {different.total()}")
    if different:
        raise typer.Exit(1)
    if not identical:  # a test that has tested nothing has not passed
        raise DataError(f"{path}: no episode of it could be replayed")


_WORDS = {
    "error": "an exception of the environment",
    "outcome": "how a call ended",
    "observation": "what the agent is shown",
    "state": "the state",
    "ending": "when or why the episode ends",
    "reward": "the reward",
}


def _show(found: Replayed) -> None:
    """A difference in a few lines: where, what was recorded, what is there now."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from ..app.console import show

    t, difference = found.trajectory, found.difference
    assert difference is not None
    place = "" if difference.turn is None else f"turn {difference.turn + 1} of {len(t.turns)}, "
    attempt = f", attempt {t.attempt}" if t.attempt else ""
    recorded, now, at = _excerpt(_visible(difference.recorded), _visible(difference.now))
    where, *_ = _excerpt(_visible(difference.where), "")
    show(Text(f"episode {_visible(t.id)}{attempt}  {_visible(t.env)}, task {_visible(t.task.id)}", "bold"))
    show(Padding(Text(f"{place}{where}: {difference.kind.value} differs"), (0, 0, 0, 2), expand=False))
    lines = Table.grid(padding=(0, 2, 0, 0))  # what tools wrote never begins at the margin, where our own lines stand
    lines.add_column(no_wrap=True)
    lines.add_column(overflow="fold")
    for head, text, style in (("recorded", recorded, "green"), ("now", now, "red")):
        lines.add_row(Text(head, style), Text.assemble(text[:at], (text[at:], "bold")))
    show(Padding(lines, (0, 0, 1, 4), expand=False))


def _excerpt(recorded: str, now: str) -> tuple[str, str, int]:
    """Both on one line, around the first place where they differ; and where in them that is."""
    recorded, now = (text.replace("\n", "\\n").replace("\t", "\\t") for text in (recorded, now))
    pairs = enumerate(zip(recorded, now, strict=False))
    at = next((i for i, (x, y) in pairs if x != y), min(len(recorded), len(now)))
    begin = max(0, at - _BEFORE) if max(len(recorded), len(now)) > _WIDTH else 0

    def part(text: str) -> str:
        return (_CUT if begin else "") + text[begin : begin + _WIDTH] + (_CUT if begin + _WIDTH < len(text) else "")

    return part(recorded), part(now), at - begin + bool(begin)


def _visible(text: Any) -> str:
    from ..trajectories.pages.report import visible

    return visible(str(text))


def _number(path: Path) -> int:
    """Episodes there are, for the progress; 0 where that is not known."""
    if path.is_dir():
        from ..trajectories.store import Store

        return len(Store(path, create=False))
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
