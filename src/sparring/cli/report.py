"""`sparring report`: one HTML page of results and episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o

__all__ = ["report"]


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="A recipe's folder; or episodes (.jsonl, or a folder of them).", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="The page.  [default: report.html there; that of a folder is written anew]"
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Sparring report",
    baseline: Annotated[str, typer.Option(metavar="ARM", help="Compare the others with this one, in pairs.")] = "",
    env: o.Loaded = [],  # noqa: B006  # typer copies it
    overwrite: o.Replace = False,
) -> None:
    """Write one HTML page of results and episodes. Each file is an arm, called by its name.

    A folder of `sparring train` adds its learning curves.

    \b
    Example:
      sparring report runs/eval
      sparring report runs/eval/expert.jsonl gold.jsonl --out compared.html
    """
    from ..app.outputs import file_to_replace
    from ..app.playing import by_condition
    from ..app.records import read
    from ..envs import make
    from ..envs.roles import tool_roles
    from ..trajectories.errors import DataError
    from ..trajectories.files import read_rows
    from ..trajectories.pages.report import Arm, Report, find_tokenizer, token_texts, write_report

    place = out or (paths[0] if paths[0].is_dir() else paths[0].parent) / "report.html"
    own = out is None and len(paths) == 1 and paths[0].is_dir()  # a folder's page is written anew
    file_to_replace(place, "report.html", overwrite or own, reads=paths)
    for name in env:
        make(name)  # loads its code
    if len(paths) == 1 and (paths[0] / "recipe.json").is_file():
        from ..trainers.recipe_report import write_recipe_report

        typer.echo(f"report: {write_recipe_report(paths[0], place)}")
        return
    files: list[Path] = []
    curves: dict[str, list[dict[str, float]]] = {}
    for path in paths:
        if path.is_dir() and (path / "metrics.jsonl").is_file():
            rows = read_rows(path / "metrics.jsonl")
            curves[path.name] = [{k: v for k, v in row.items() if v is not None} for row in rows]
        elif path.is_dir():
            found = sorted(path.glob("*.jsonl"))
            if not found:
                raise DataError(f"{path} holds no episodes (.jsonl), and is no folder of a recipe or a training run")
            files += found
        else:
            files.append(path)
    played = {file: read([file]) for file in files}
    several = len({t.env for ts in played.values() for t in ts}) > 1
    stems = [file.stem for file in files]
    names = [f.stem if stems.count(f.stem) == 1 else str(f.with_suffix("")) for f in files]
    arms = [
        Arm(name, ", ".join(dict.fromkeys(t.agent for t in ts if t.agent)), by_condition(ts, several=several))
        for name, ts in zip(names, played.values(), strict=True)
    ]
    tokenizer = next((model for path in paths if path.is_dir() and (model := find_tokenizer(path))), None)
    page = Report(
        title,
        facts={"files": ", ".join(map(str, paths))},
        arms=arms,
        curves=curves,
        baseline=baseline,
        decode=token_texts(tokenizer) if tokenizer else None,
        roles=tool_roles(t.env for ts in played.values() for t in ts),
    )
    typer.echo(f"report: {write_report(page, place)}")
