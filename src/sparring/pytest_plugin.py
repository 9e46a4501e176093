"""`pytest --sparring mine.py:Kiosk`: each check of `sparring check` as a test with a name.

A finding that is an error fails its test, a warning is a warning of pytest. A check that relies on one that failed is
skipped. `--tb=long` shows the traceback of what the environment raised. pytest finds this module by itself, so only
pytest is imported at the top.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .envs.check import Finding

__all__ = ["CheckWarning"]


class CheckWarning(UserWarning):
    """Something that `sparring check` would warn of."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("sparring").addoption(
        "--sparring",
        action="append",
        default=[],
        metavar="ENV",
        help="check this environment, one test for each check: a registered name, module:Class or file.py:Class; "
        "may be given several times",
    )


@pytest.hookimpl(tryfirst=True)  # so that -k and -m choose among these tests too
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    for env in dict.fromkeys(config.getoption("--sparring")):
        items.extend(_Env.from_parent(session, name=env, nodeid=f"sparring check {env}").collect())


class _Failed(Exception):
    """The errors of one check."""


class _Env(pytest.Collector):
    """One environment. Its checks run in their order and once, as far as a test has asked for them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._running: Iterator[tuple[str, list[Finding] | None]] | None = None
        self._found: dict[str, list[Finding] | None] = {}

    def collect(self) -> list[pytest.Item]:
        from .envs.check import check_names

        return [_Check.from_parent(self, name=name) for name in check_names()]

    def found(self, check: str) -> list[Finding] | None:
        """What a check has found; None: it was left out. Raises what `run_checks` raises."""
        from .envs.check import run_checks

        if self._running is None:
            self._running = run_checks(self.name)
        while check not in self._found:
            name, found = next(self._running)
            self._found[name] = found
        return self._found[check]


class _Check(pytest.Item):
    """One check of one environment."""

    def runtest(self) -> None:
        assert isinstance(self.parent, _Env)
        found = self.parent.found(self.name)
        if found is None:
            pytest.skip("left out: a check that it relies on has failed")
        errors = [finding for finding in found if finding.severity == "error"]
        if errors:
            long = self.config.getoption("tbstyle") in ("long", "native")
            traces = [f"\n{e.trace.rstrip()}" if long and e.trace else "" for e in errors]
            told = [f"{e.what}\n  fix: {e.how_to_fix}{trace}" for e, trace in zip(errors, traces, strict=True)]
            raise _Failed("\n".join(told))
        for finding in found:
            warnings.warn(f"{finding.what}; {finding.how_to_fix}", CheckWarning, stacklevel=1)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from .trajectories.errors import SparringError

        if isinstance(excinfo.value, (_Failed, SparringError)):
            return str(excinfo.value)  # a traceback would show the checker and not the environment
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, None, str]:
        return self.path, None, f"{self.parent.name if self.parent else ''}: {self.name}"
