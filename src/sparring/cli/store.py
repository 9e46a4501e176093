"""`sparring store ls | query | verify | seal | gc | import | export`: a store of episodes, and its upkeep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as o

__all__ = ["store"]

store = typer.Typer(no_args_is_help=True, rich_markup_mode=None, add_completion=False)

Folder = Annotated[Path, typer.Option("--store", metavar="FOLDER", envvar="SPARRING_STORE", help="The store.")]
_DEFAULT = Path("runs/store")


@store.callback()
def stores() -> None:
    """Keep episodes in a store. Many writers, safe against kill -9, searched with SQL.

    \b
    Example:
      sparring store import gold.jsonl
      sparring store query "select env, avg(success::int) from episodes group by env"
    """


@store.command()
def ls(folder: Folder = _DEFAULT) -> None:
    """List the files of a store. With episodes and size; live segments first have to be sealed to be small.

    \b
    Example:
      sparring store ls
    """
    from ..trajectories.store import Store

    opened = Store(folder, create=False)
    sizes = opened.sizes()
    for name, episodes, size in sizes:
        typer.echo(f"{episodes:9,}  {size / 1e6:10.2f} MB  {name}")
    typer.echo(
        f"{len(opened):9,}  {sum(size for _, _, size in sizes) / 1e6:10.2f} MB  episodes in all, each counted once"
    )


@store.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="Over `episodes` and `calls`.", show_default=False)],
    folder: Folder = _DEFAULT,
    json: Annotated[bool, typer.Option("--json", help="One line of JSON a row, in place of a table.")] = False,
) -> None:
    """Answer SQL. Views: `episodes`, a row each; `calls`, a row for each tool call.

    \b
    Example:
      sparring store query "select env, avg(success::int) from episodes group by env"
      sparring store query "select tool, outcome, count(*) from calls group by all" --json
    """
    from ..trajectories.store import Store

    result = Store(folder, create=False).query(sql)
    if json:
        import orjson

        for row in result.dicts():
            typer.echo(orjson.dumps(row, default=str).decode())
        return
    from rich.table import Table
    from rich.text import Text

    from ..app.console import show
    from ..trajectories.pages.report import visible

    table = Table()
    for name in result.columns:
        table.add_column(Text(visible(name)))
    for values in result.rows:
        table.add_row(*(Text("" if value is None else visible(str(value))) for value in values))
    show(table)


@store.command()
def verify(folder: Folder = _DEFAULT) -> None:
    """Read all of a store, and say what is damaged. Exits with 1 where something is.

    \b
    Example:
      sparring store verify
    """
    from ..trajectories.pages.report import visible
    from ..trajectories.store import Store

    found = Store(folder, create=False).verify()
    for problem in found.problems:
        typer.echo(visible(problem))
    damage = f"{len(found.problems)} damaged" if found.problems else "all is well"
    typer.echo(f"{found.episodes:,} episodes in {found.parts} sealed and {found.segments} live files: {damage}")
    if found.problems:
        raise typer.Exit(1)


@store.command()
def seal(folder: Folder = _DEFAULT) -> None:
    """Move finished segments into Parquet. Smaller, faster to search, and safe against a power failure.

    \b
    Example:
      sparring store seal
    """
    from ..trajectories.store import Store

    done = Store(folder, create=False).seal()
    typer.echo(f"sealed {done.episodes:,} episodes of {done.segments} segments, {done.repeated} copies dropped")
    if done.busy:
        typer.echo(f"{done.busy} segments are still being written; seal again when their writers have ended")
    if done.damaged:
        typer.echo(f"{done.damaged} damaged lines: their segments are kept in {folder / 'damaged'}")


@store.command()
def gc(
    folder: Folder = _DEFAULT,
    max_age_days: Annotated[
        float | None, typer.Option(min=0, help="Drop episodes that were stored longer ago.")
    ] = None,
    max_episodes: Annotated[int | None, typer.Option(min=0, help="Keep the newest, drop the others.")] = None,
) -> None:
    """Merge small files, drop what is too old, remove left-overs. Of what is sealed; nothing is dropped by default.

    \b
    Example:
      sparring store gc
      sparring store gc --max-age-days 30
    """
    from ..trajectories.store import Store

    done = Store(folder, create=False).gc(max_age_days=max_age_days, max_episodes=max_episodes)
    typer.echo(f"dropped {done.dropped:,} episodes, rewrote {done.merged} files, removed {done.removed}")
    if done.waiting:
        typer.echo(f"{done.waiting} files are still being read; the next clean-up removes them")


@store.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="Episodes.", show_default=False)],
    folder: Folder = _DEFAULT,
) -> None:
    """Add the episodes of a file. Makes the store where there is none; a second import changes nothing.

    An episode that the store holds with other content is counted and not added: an id is taken once.

    \b
    Example:
      sparring store import gold.jsonl
    """
    from hashlib import blake2b

    from ..app.records import episodes_in
    from ..trajectories.store import Store

    if not file.is_file():
        from ..trajectories.errors import DataError

        raise DataError(f"there is no file {file}")

    def digest(t: Any) -> bytes:
        return blake2b(t.to_json(), digest_size=16).digest()

    given = {(t.id, t.attempt): digest(t) for t in episodes_in(file)}
    with Store(folder) as opened:
        held = {(t.id, t.attempt): given.get((t.id, t.attempt)) == digest(t) for t in opened.read()}
        new = 0
        for t in episodes_in(file):
            if (t.id, t.attempt) not in held:
                held[t.id, t.attempt] = True
                opened.append(t)
                new += 1
    other = sum(not held[key] for key in given)
    differ = f", {other:,} not added: the store holds other episodes of their ids" if other else ""
    typer.echo(f"{len(given):,} episodes in {file}, {new:,} of them new{differ}; {len(held):,} in {folder}")


@store.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="What is written.", show_default=False)],
    folder: Folder = _DEFAULT,
    env: Annotated[str | None, typer.Option(metavar="ID", help="Only of this environment.")] = None,
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this agent.")] = None,
    success: Annotated[
        bool | None, typer.Option("--success/--failure", help="Only those that succeeded, or failed.")
    ] = None,
    fault: Annotated[str | None, typer.Option(metavar="KIND", help="Only those that this fault struck.")] = None,
    outcome: Annotated[str | None, typer.Option(metavar="OUTCOME", help="Only with a call that ended so.")] = None,
    overwrite: o.Replace = False,
) -> None:
    """Write episodes to a file that the other commands read. One line of JSON each.

    \b
    Example:
      sparring store export all.jsonl
      sparring store export failed.jsonl --env sparring/Orders-v0 --failure --outcome timeout
    """
    import os

    from ..app.outputs import file_to_replace
    from ..trajectories.errors import DataError, UnknownName
    from ..trajectories.messages import Outcome
    from ..trajectories.store import Store

    if outcome is not None and outcome not in list(Outcome):
        raise UnknownName("outcome", outcome, list(Outcome))
    file_to_replace(file, "episodes.jsonl", overwrite, "FILE", reads=[folder])
    opened = Store(folder, create=False)
    count = 0
    temp = file.with_name(f"{file.name}.{os.getpid()}.new")
    try:
        with temp.open("wb") as out:
            for t in opened.read(env=env, agent=agent, success=success, fault=fault, outcome=outcome):
                out.write(t.to_json() + b"\n")
                count += 1
        if not count:
            raise DataError(f"no episode of {folder} is like that; {file} was not written")
        temp.replace(file)
    finally:
        temp.unlink(missing_ok=True)
    typer.echo(f"{count:,} episodes: {file}")
