"""The report of a recipe's folder: its arms, curves, time, hardware and versions on one page."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..envs.roles import tool_roles
from ..trajectories.errors import DataError
from ..trajectories.files import read_rows
from ..trajectories.pages.report import Arm, Report, find_tokenizer, token_texts, write_report
from .stages.evaluate import arms_in

__all__ = ["write_recipe_report"]


def write_recipe_report(folder: Path, place: Path | None = None) -> Path:
    """Writes the page of a recipe that is finished or not to `place`, by default `report.html` in its folder. Raises
    `DataError` for any other folder."""
    if not (folder / "recipe.json").exists():
        raise DataError(f"{folder} is no recipe's folder: it has no recipe.json")
    about = json.loads((folder / "recipe.json").read_text())
    arms: list[Arm] = []
    curves: dict[str, list[dict[str, float]]] = {}
    seconds = 0.0
    for name in about["stages"]:
        stage = folder / name
        marker = stage / "stage.json"
        seconds += json.loads(marker.read_text())["seconds"] if marker.exists() else 0.0
        arms += arms_in(stage)
        if (stage / "metrics.jsonl").exists():
            rows = read_rows(stage / "metrics.jsonl")
            curves[name] = [{k: v for k, v in row.items() if v is not None} for row in rows]
    names = {arm.name for arm in arms}
    conditions = {condition for arm in arms for condition in arm.conditions}
    levels = ", ".join(map(str, about["levels"])) or "all"
    envs = ", ".join(about["env"])
    held_out = f"\n\nHeld-out is the environment {about['held_out']}, which no arm was trained on."
    tokenizer = find_tokenizer(folder)
    report = Report(
        title=f"{envs}: {about['profile']} recipe on {about['model']}",
        intro=(
            f"Every arm played the same test tasks (levels {levels}) under the same fault seeds and sampling seeds, at "
            f"temperature 1. {about['about'].strip()}" + (held_out if about["held_out"] else "")
        ),
        facts={
            "command": about["command"],
            "seed": str(about["seed"]),
            "time": f"{seconds / 60:.1f} minutes in all stages",
            "hardware": _hardware(),
            "versions": _versions(),
        },
        arms=arms,
        curves=curves,
        baseline=about["baseline"] if about["baseline"] in names else "",
        headline_arm=about["headline"] if about["headline"] in names else "",
        headline_condition=about["headline_condition"] if about["headline_condition"] in conditions else "",
        decode=token_texts(tokenizer) if tokenizer else None,
        roles=tool_roles(t.env for arm in arms for played in arm.conditions.values() for t in played),
    )
    return write_report(report, place or folder / "report.html")


def _hardware() -> str:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _versions() -> str:
    names = ("sparring", "torch", "transformers", "gymnasium")
    return ", ".join(f"{name} {_version(name)}" for name in names) + f", Python {platform.python_version()}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout on the path, not installed
        return "(not installed)"
