"""`Files`: the tools over a folder, its verdict and its expert."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

from ...tools import Conflict, NotFound, tool
from ...trajectories import Json, Outcome, Task, ToolResult
from ..env import Solution, ToolEnv
from ..episode import Snapshot
from ..facets import FaultHooks
from ..task import Split
from .folder import Folder
from .tasks import FOLDERS, SIMPLE, TRASH, after, changed, fill, tasks

__all__ = ["Files"]

Calls = tuple[str, dict[str, Json]]
Moves = Generator[Calls, ToolResult, bool]


@dataclass(slots=True)
class Desk:
    """One episode's world."""

    folder: Folder
    wanted: dict[str, str]
    """Path -> text of every file when all is done; what the agent put into the trash besides does not count."""
    was: dict[str, str] = field(default_factory=dict)
    """The same at the beginning."""


class _Faults(FaultHooks):
    def rotate_id(self, env: Files, tool: str, arguments: dict[str, Json]) -> bool:
        path, desk = str(arguments.get("path")), env.state
        if path not in desk.folder.files() or path.startswith(f"{TRASH}/"):
            return False
        used = {p.partition("/")[0] for p in (*desk.folder.files(), *desk.wanted)}
        new = f"{env.episode.rng.choice([f for f in FOLDERS if f not in used])}/{_name(path)}"
        try:
            desk.folder.move(path, new)
        except Conflict:
            return False
        for part in (desk.wanted, desk.was):
            if path in part:
                part[new] = part.pop(path)
        return True

    def distort(self, env: Files, tool: str, arguments: dict[str, Json], value: Json) -> Json:
        if tool not in ("find_file", "read_file"):
            return None
        others = {path: text for path, text in env.state.folder.files().items() if path != value["path"]}
        if not others:
            return None
        path = env.episode.rng.choice(list(others))
        if tool == "find_file":
            return {"name": _name(path), "path": path}
        return {"path": path, "text": others[path]}

    def look(self, env: Files, tool: str, arguments: dict[str, Json]) -> Calls | None:
        if tool in ("append_line", "write_file"):
            return "read_file", {"path": arguments["path"]}
        return "list_files", {}


class Files(ToolEnv):
    """Keep a folder of notes in order: find files by name or content, then move, trash, change or add to them.

    The world is a real folder on disk, one for each episode, removed when the episode is replaced or the environment
    closed. The tools reach nothing outside it. Base names are unique; ids are paths.

    ## Tools
    `list_files`, `find_file`, `search`, `read_file` read; `write_file`, `append_line`, `move_file`, `trash` write;
    `log_in`, `wait`. `list_files` is the second route of `find_file`, `write_file` of `append_line`, `move_file` of
    `trash`.

    ## Rewards
    1 when the folder is just as it was asked for: one file more, less or other is a failure, and so is a line that was
    added twice. What was put into the trash next to what was asked for, and stood nowhere before, does not count.

    ## Episode End
    A message without a call, or the turn limit.

    ## Faults
    All kinds can strike. `stale_id` moves the file that a call names into another folder.

    ## Version History
    v0: first.
    """

    system = (
        "Keep the files in order with the tools, one call at a time. Change only what is asked. When all is done "
        "answer Done. If it cannot be done answer Cannot."
    )
    state: Desk
    fault_hooks = _Faults()

    def tasks(self, split: Split, rng: random.Random) -> Iterable[Task]:
        return tasks(split, rng)

    def setup(self, task: Task, rng: random.Random) -> None:
        self._leave()
        files = fill(task, rng)
        self.state = Desk(Folder(files), after(task, files), files)

    def restore(self, snapshot: Snapshot) -> None:
        self._leave()
        super().restore(snapshot)

    def close(self) -> None:
        self._leave()
        super().close()

    def _leave(self) -> None:
        """Removes the folder of the episode that ends. It would go with its owner too, but at a time of its own."""
        if self.state is not None:
            self.state.folder.close()

    # ---- tools -----------------------------------------------------------------------------------------------------

    @tool(alternative="find_file")
    def list_files(self) -> Json:
        """List the paths of all files."""
        return list(self.state.folder.files())

    @tool(alternative="list_files")
    def find_file(self, name: str) -> Json:
        """Find a file by its name."""
        for path in self.state.folder.files():
            if _name(path) == name:
                return {"name": name, "path": path}
        raise NotFound(f"no file {name}")

    @tool
    def search(self, text: str) -> Json:
        """Find the lines that hold a text."""
        found = [
            {"line": line, "path": path}
            for path, content in self.state.folder.files().items()
            for line in content.splitlines()
            if text and text in line
        ]
        if not found:
            raise NotFound(f"no line with {text[:80]}")
        return found[:10]

    @tool(ids=["path"])
    def read_file(self, path: str) -> Json:
        """Read a file."""
        return {"path": path, "text": self.state.folder.read(path)}

    @tool(effect=True, idempotent=True, ids=["path"])
    def write_file(self, path: str, text: str) -> str:
        """Write a whole file."""
        self.state.folder.write(path, text)
        return "written"

    @tool(effect=True, alternative="write_file", ids=["path"])
    def append_line(self, path: str, line: str) -> str:
        """Add a line at the end of a file."""
        text = self.state.folder.read(path)
        self.state.folder.write(path, f"{text.rstrip()}\n{line}\n".lstrip("\n"))
        return "added"

    @tool(effect=True, ids=["path"])
    def move_file(self, path: str, folder: str) -> str:
        """Move a file into a folder."""
        self.state.folder.move(path, f"{folder}/{_name(path)}" if folder else _name(path))
        return "moved"

    @tool(effect=True, alternative="move_file", ids=["path"])
    def trash(self, path: str) -> str:
        """Move a file into the folder trash."""
        self.state.folder.move(path, f"{TRASH}/{_name(path)}")
        return "trashed"

    @tool(logs_in=True)
    def log_in(self) -> str:
        """Start a new session."""
        return "welcome"

    @tool(waits=True)
    def wait(self) -> str:
        """Let some time pass."""
        return "ok"

    # ---- verdict and expert ----------------------------------------------------------------------------------------

    def success(self, task: Task) -> bool:
        return not self.state.folder.strange() and not self._differs()

    def _differs(self) -> list[str]:
        """Paths at which the folder is not as it should be at the end."""
        there, wanted = _plain(self.state.folder.files()), _plain(self.state.wanted)
        paths = [path for path in {**wanted, **there} if there.get(path) != wanted.get(path)]
        return [path for path in paths if path in wanted or not path.startswith(f"{TRASH}/")]

    def solve(self, task: Task) -> Solution:
        for _ in range(12):  # what an agent did besides, one thing at a time
            call = self._undo(task)
            if call is None:
                break
            yield call
        for goal in task.data["goals"]:
            if self._as_in(self.state.wanted, goal["name"]):
                continue
            done = yield from self._do(goal)
            if not done:
                yield "Cannot do it."
                return
        yield "Done."

    def _as_in(self, wanted: dict[str, str], name: str) -> bool:
        """Whether the files of this name stand as in `wanted`."""
        there = self.state.folder.files()
        return _plain({p: t for p, t in there.items() if _name(p) == name}) == _plain(
            {p: t for p, t in wanted.items() if _name(p) == name}
        )

    def _undo(self, task: Task) -> Calls | None:
        """A call that takes back something which nobody asked for; None where there is nothing of the kind."""
        there, wanted = self.state.folder.files(), self.state.wanted
        goals = {goal["name"] for goal in task.data["goals"]}
        wrong = [p for p in self._differs() if not (_name(p) in goals and self._as_in(self.state.was, _name(p)))]
        for path in wrong:
            if path in wanted and path not in there:
                astray = [p for p in there if _name(p) == _name(path) and p not in wanted]
                if astray and "/" in path:
                    return "move_file", {"path": astray[0], "folder": path.rpartition("/")[0]}
                return "write_file", {"path": path, "text": wanted[path]}
        for path in wrong:
            if path in wanted:
                return "write_file", {"path": path, "text": wanted[path]}
            if f"{TRASH}/{_name(path)}" not in there:
                return "trash", {"path": path}
        return None

    def _do(self, goal: dict[str, Json]) -> Moves:
        """Finds the file, reads it where that matters, and does what is asked. False: it could not."""
        path = yield from self._locate(goal)
        if path is None:
            return False
        text = ""
        if goal["kind"] not in SIMPLE:
            read = yield "read_file", {"path": path}
            if not read.ok or read.value["path"] != path:
                return False
            text = read.value["text"]
        match goal["act"]:
            case "set":
                last = yield "write_file", {"path": path, "text": changed(text, goal["value"])}
            case "move":
                last = yield "move_file", {"path": path, "folder": goal["folder"]}
            case "trash":
                last = yield from self._or("trash", {"path": path}, "move_file", {"path": path, "folder": TRASH})
            case _:
                call = {"path": path, "line": goal["line"]}
                if not self.episode.is_gone("append_line"):
                    last = yield "append_line", call
                    if last.outcome is not Outcome.GONE:
                        return last.ok
                if not text:
                    read = yield "read_file", {"path": path}
                    if not read.ok:
                        return False
                    text = read.value["text"]
                last = yield "write_file", {"path": path, "text": f"{text.rstrip()}\n{goal['line']}\n"}
        return last.ok

    def _or(
        self, tool: str, arguments: dict[str, Json], other: str, others: dict[str, Json]
    ) -> Generator[Calls, ToolResult, ToolResult]:
        """One call, or another one where its tool is gone."""
        if not self.episode.is_gone(tool):
            result = yield tool, arguments
            if result.outcome is not Outcome.GONE:
                return result
        return (yield other, others)

    def _locate(self, goal: dict[str, Json]) -> Generator[Calls, ToolResult, str | None]:
        """The path of the goal's file."""
        if goal["by_client"]:
            lines = yield "search", {"text": goal["client"]}
            mine = f"client: {goal['client']}"
            return next((str(found["path"]) for found in lines.value or () if found["line"] == mine), None)
        found = yield from self._or("find_file", {"name": goal["name"]}, "list_files", {})
        if not found.ok:
            return None
        if isinstance(found.value, dict):
            return str(found.value["path"])
        return next((str(path) for path in found.value if _name(path) == goal["name"]), None)


def _name(path: str) -> str:
    """A path's last component."""
    return path.rpartition("/")[2]


def _plain(files: dict[str, str]) -> dict[str, str]:
    """Files as they are compared: space at the end does not count."""
    return {path: text.rstrip() for path, text in files.items()}
