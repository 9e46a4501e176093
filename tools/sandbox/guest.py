"""What runs inside a bubblewrap sandbox: reads one job from standard input, runs its code, writes one result, ends.

The host passes this file's text to a bare `python -I -S -c`, so it imports only the standard library and nothing of
Sparring. Nothing that it says is trusted: the code it runs shares its process and may say anything in its name.

The job is one JSON object (`code`, `files` as base64 by name, `limits` by name of the resource, `width`); the result is
one JSON object (`outcome`, `value`, `error`) on the file descriptor named by the first argument, after one byte that
says "ready".
"""

from __future__ import annotations

import ast
import base64
import json
import linecache
import os
import resource
import sys
import traceback
import types
from typing import Any

__all__ = ["NAME", "WORKSPACE", "last_expression", "plain"]

WORKSPACE = "/workspace"
"""Where the job's files lie, and the working directory."""

NAME = "<code>"
"""File name of the code in tracebacks."""


def plain(value: Any, width: int) -> Any:
    """`value` as JSON gives it back; its `repr`, cut at `width` characters, where JSON cannot hold it.

    Integers beyond 64 bits become text, which every reader of JSON takes alike.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False), parse_int=_integer)
    except (TypeError, ValueError, RecursionError):
        try:
            return repr(value)[:width]
        except Exception:  # deeper, or with more digits, than `repr` goes
            return f"<{type(value).__name__}>"


def _integer(text: str) -> int | str:
    value = int(text)
    return value if -(2**63) <= value < 2**63 else text


def last_expression(code: str) -> tuple[types.CodeType, types.CodeType | None]:
    """The code up to its last expression, and that expression, whose value is the run's value. Raises SyntaxError."""
    tree = ast.parse(code, NAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    body = compile(tree, NAME, "exec")
    return body, compile(ast.Expression(last.value), NAME, "eval") if isinstance(last, ast.Expr) else None


def run(code: str, width: int) -> dict[str, Any]:
    """Runs the code as `__main__`. Returns the result; raises nothing."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    linecache.cache[NAME] = (len(code), None, code.splitlines(keepends=True), NAME)
    try:
        body, last = last_expression(code)
        exec(body, module.__dict__)
        value = eval(last, module.__dict__) if last else None
        return {"outcome": "ok", "value": plain(value, width), "error": ""}
    except MemoryError:
        return {"outcome": "memory", "value": None, "error": "MemoryError"}
    except SystemExit as stop:
        fine = stop.code is None or stop.code == 0
        return {
            "outcome": "ok" if fine else "error",
            "value": None,
            "error": "" if fine else f"SystemExit: {stop.code}",
        }
    except BaseException as error:
        return {"outcome": "error", "value": None, "error": _told(error)[-width:]}


def _told(error: BaseException) -> str:
    """The traceback without this file's own frames."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name != "run" or f.filename == NAME]
    where = "".join(traceback.format_list(frames))
    return (where + "".join(traceback.format_exception_only(type(error), error))).strip()


def main() -> None:
    answer = int(sys.argv[1])
    sys.argv = [NAME]
    os.set_inheritable(answer, False)
    os.write(answer, b"R")
    job = json.loads(sys.stdin.buffer.read())
    for name, value in job["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    for name, text in job["files"].items():
        path = os.path.join(WORKSPACE, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(text))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what was printed before a kill counts
    # A child left behind holds no result open.
    os.register_at_fork(after_in_child=lambda: os.closerange(answer, answer + 1))
    result = run(job["code"], job["width"])
    try:
        text = json.dumps(result).encode()
        sys.stdout.flush()
        while text:
            text = text[os.write(answer, text) :]
    finally:
        os._exit(0)  # threads and exit handlers of the code are not waited for


if __name__ == "__main__":
    main()
