"""`python_tool`: an agent's Python runs in a `Sandbox`, never in this process."""

from __future__ import annotations

from collections.abc import Mapping

from ...trajectories.messages import Json
from ..definition import Tool
from ..errors import ToolError, ToolTimeout
from ..sandbox import DEADLINE, MEMORY, RunOutcome, Sandbox

__all__ = ["python_tool"]

_HINTS = {
    RunOutcome.ERROR: "correct the code",
    RunOutcome.MEMORY: "use less memory, or fewer processes",
    RunOutcome.OUTPUT: "print less",
    RunOutcome.CRASHED: "let the code end by itself",
}
_SHOWN = 1000
"""Characters of what was printed before an error that the agent is shown, from the end."""


def python_tool(
    sandbox: Sandbox,
    *,
    files: Mapping[str, str | bytes] | None = None,
    deadline: float = DEADLINE,
    memory: int = MEMORY,
) -> Tool:
    """The tool `python`: runs code in `sandbox`, each time in a fresh world that holds `files`.

    Nothing that the code does lasts, so the tool has no effect. Code that raises is a `ToolError` with the traceback,
    code that runs out of time a `ToolTimeout`. The caller closes the sandbox.

    Args:
        sandbox: Where it runs.
        files: Relative path -> content of files that the code finds in its working directory.
        deadline: Seconds for one run.
        memory: Bytes for one run.
    """

    def python(code: str) -> Json:
        """Run Python code from a fresh start. Returns what it prints, and the value of its last expression.

        Args:
            code: Python source.
        """
        result = sandbox.run(code, files=files, deadline=deadline, memory=memory)
        if result.ok:
            return {"stdout": result.stdout, "value": result.value}
        printed = f"{result.stdout[-_SHOWN:].rstrip()}\n" if result.stdout else ""
        if result.outcome is RunOutcome.TIMEOUT:
            raise ToolTimeout(printed + result.error, hint="do less in one run", took_effect=False)
        raise ToolError(printed + result.error, hint=_HINTS[result.outcome])

    return Tool.from_function(python, idempotent=True, blocking=True)
