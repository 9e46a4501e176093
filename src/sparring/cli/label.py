"""`sparring label`: people say which of two episodes went better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o

if TYPE_CHECKING:
    from ..trajectories.labels import Label

__all__ = ["label"]


def label(
    path: Annotated[Path, typer.Argument(metavar="STORE", help="A store, or a file of episodes.", show_default=False)],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where labels go.  [default: labels.jsonl in the store, NAME.labels by a file]"
        ),
    ] = None,
    labeller: Annotated[str, typer.Option(metavar="NAME", help="Who labels.  [default: your user name]")] = "",
    n: Annotated[int, typer.Option("--n", min=1, help="Pairs to label at most.")] = 200,
    per_task: Annotated[int, typer.Option(min=1, help="Pairs of one task and fault plan at most.")] = 3,
    seed: Annotated[int, typer.Option(help="Of order and sides. Give all labellers the same.")] = 0,
    names: Annotated[bool, typer.Option("--names", help="Show which agent played.")] = False,
    verdicts: Annotated[bool, typer.Option("--verdicts", help="Show success and reward.")] = False,
    port: o.Port = 0,
    open_: o.OpenBrowser = True,
    summary: Annotated[
        bool, typer.Option("--summary", help="Print labels, agreement and pairs; serve nothing.")
    ] = False,
) -> None:
    """Say in a browser which of two episodes went better. Only this machine is served; Ctrl-C ends it.

    Two of one task and fault plan are next to each other. Each answer is on the disk before the next pair is shown.

    \b
    Example:
      sparring label groups.jsonl --summary
      sparring label runs/store --labeller ada
    """
    from ..trajectories.labels import LabelFile

    place = labels or _default_file(path)
    file = LabelFile(place)
    if summary:
        _summarise(path, place, file.labels())
        return
    import getpass

    from ..app.browser import open_page
    from ..app.records import episodes_in
    from ..trajectories.pages.labelling import LabelServer, label_pairs
    from ..trajectories.pages.labelling.server import LabelSession

    queue = label_pairs(lambda: episodes_in(path), n=n, per_task=per_task, seed=seed)
    who = labeller or getpass.getuser()
    session = LabelSession(queue, file, labeller=who, seed=seed, names=names, verdicts=verdicts)
    server = LabelServer(session, title=path.resolve().name, port=port)
    typer.echo(f"{len(queue)} pairs of {path} at {server.url}\nlabels of {who} go to {place}  (Ctrl-C ends this)")
    if open_:
        open_page(server.url)
    try:
        server.run()
    except KeyboardInterrupt:
        own = sum(x.labeller == who for x in file.labels())
        are = f"{own} label of {who} is" if own == 1 else f"{own} labels of {who} are"
        typer.echo(f"\n{are} in {place}; what all labels come to: sparring label {path} --summary")


def _summarise(path: Path, place: Path, labels: list[Label]) -> None:
    from ..app.records import episodes_in
    from ..trajectories.curation import pairs_from_labels
    from ..trajectories.errors import DataError
    from ..trajectories.labels import agreement, majority
    from ..trajectories.pages.report import visible

    if not labels:
        typer.echo(f"no labels in {place} yet: sparring label {path}")
        return
    found = agreement(labels)
    typer.echo(
        f"{len(labels)} labels: " + ", ".join(f"{visible(name)} {count}" for name, count in found.labellers.items())
    )
    if found.same is None:
        typer.echo("agreement: no two labellers have labelled the same pair yet")
    else:
        interval = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
        alpha = "not measured, all answers are the same" if found.alpha is None else f"{found.alpha:.2f}{interval}"
        typer.echo(f"agreement over {found.pairs} pairs: the same answer on {100 * found.same:.0f}%")
        typer.echo(f"  Krippendorff's alpha {alpha}")
        for (one, other), (kappa, both) in found.kappa.items():
            value = "not measured" if kappa is None else f"{kappa:.2f}"
            typer.echo(f"  Cohen's kappa of {visible(one)} and {visible(other)} {value}, {both} pairs")
    left, sided = found.left
    if sided:
        typer.echo(f"the side on the left was preferred {left} times of {sided}")
    for tally in majority(labels):
        if tally.label == "conflict":
            votes = ", ".join(f"{name} {count}" for name, count in tally.votes.items())
            typer.echo(f"at odds: a {visible(tally.a[0])}, b {visible(tally.b[0])}: {votes}")
    try:
        typer.echo(f"pairs: {pairs_from_labels(labels, episodes_in(path)).card}")
    except DataError as error:
        typer.echo(f"pairs: {error}")


def _default_file(path: Path) -> Path:
    """Not `.jsonl` next to a file of episodes: a folder of those is read as episodes."""
    return path / "labels.jsonl" if path.is_dir() else path.with_suffix(".labels")
