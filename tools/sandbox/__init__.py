"""Where model-written code runs: a `Sandbox` runs one piece of Python, within limits, apart from this process.

It is no place for trusted code that needs the host, and no judge: what a sandbox reports comes from the code in it.
Two kinds: `MontySandbox` (a subset of Python, anywhere) and `BubblewrapSandbox` (real CPython, on Linux).

Each run starts from nothing: no state is shared between runs. A sandbox that cannot be made raises
`InfrastructureError` or `MissingExtra`; there is no fallback to a plain process.
"""

from .bubblewrap import BubblewrapSandbox
from .monty import MontySandbox
from .protocol import DEADLINE, MEMORY, RunOutcome, Sandbox, SandboxLimits, SandboxResult

__all__ = [
    "DEADLINE",
    "MEMORY",
    "BubblewrapSandbox",
    "MontySandbox",
    "RunOutcome",
    "Sandbox",
    "SandboxLimits",
    "SandboxResult",
]
