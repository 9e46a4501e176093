"""Where a service is: a document's servers, their templates, and what the user says instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

from ...trajectories.errors import ConfigError
from .parts import DocumentPart, Omissions, Wrong
from .reading import told

__all__ = ["Servers", "checked", "origin"]

_VARIABLE = re.compile(r"\{([^{}]*)\}")


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def checked(url: str) -> str:
    """A server's address without a slash at its end. Raises `ValueError` for what is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        raise ValueError(f"an http or https address is needed, got {url!r}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
        raise ValueError(f"an http or https address is needed, got {url!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the address holds credentials, a query or a fragment: give credentials by `auth`")
    return url.rstrip("/")


class Servers:
    """The addresses of a document's operations."""

    def __init__(
        self,
        root: DocumentPart,
        base_url: str | Mapping[str, str] | None,
        variables: Mapping[str, str],
        report: Omissions,
    ) -> None:
        """
        Args:
            root: The document.
            base_url: The user's address for the document's own server, or for each server that the document names.
            variables: Values for the variables in the servers' addresses.
            report: Told of servers that cannot be used.

        Raises `ConfigError` for an address that is none, a server that the document does not name, or a value that a
        variable cannot have.
        """
        self.report, self.variables = report, variables
        self._known: set[str] = set()
        self._used: set[str] = set()
        self._instead = {k.rstrip("/"): _given(v) for k, v in base_url.items()} if isinstance(base_url, Mapping) else {}
        self.fixed = _given(base_url) if isinstance(base_url, str) and base_url else ""
        """The one address of all operations that have no server of their own."""
        self.why = "the document names no server"
        """Why there is no address."""
        self.main = self.fixed
        self._declared = ""
        try:
            self._declared = self._first(root, "")
        except Wrong as wrong:
            self.why = wrong.why
            if not self.fixed:
                report.add(wrong.where, "the document's server", wrong.why)
        if not self.fixed:
            self.main = self._declared

    def check(self) -> None:
        """Raises `ConfigError` where the user's settings name what the document does not have. To be called when all
        operations were asked for."""
        for kind, given, known in (
            ("server", set(self._instead), self._used),
            ("server variable", set(self.variables), self._known),
        ):
            if wrong := sorted(given - known):
                raise ConfigError(
                    f"the document has no {kind} {wrong[0]!r}; it has: {', '.join(sorted(known)) or 'none'}"
                )

    def of(self, item: DocumentPart, operation: DocumentPart) -> str:
        """The address of an operation. Raises `Wrong` where it has none that may be used."""
        for part in (operation, item):
            if found := self._first(part, self.fixed or self._declared):
                if self.fixed and origin(found) != origin(self.fixed) and found not in self._instead.values():
                    raise Wrong(
                        part.where,
                        f"it is served at {found}, not at base_url; give base_url={{{found!r}: ...}} for both",
                    )
                return found
        if not self.main:
            raise Wrong(item.where, f"{self.why}; give base_url")
        return self.main

    def _first(self, part: DocumentPart, base: str) -> str:
        """The first server of a part that can be used; "" where it names none. Raises `Wrong`."""
        listed = part.get("servers")
        if listed is None:
            return ""
        problem = None
        for server in sorted(listed.items(), key=lambda server: not self._is_replaced(server)):
            try:
                return self._address(server, base)
            except Wrong as wrong:
                problem = problem or wrong
        if problem is not None:
            raise problem
        return ""

    def _is_replaced(self, server: DocumentPart) -> bool:
        """Whether the user has another address for a server. Notes what the user may say of it."""
        template = server.value.get("url") if isinstance(server.value, dict) else None
        if not isinstance(template, str):
            return False
        self._known.update(_VARIABLE.findall(template))
        self._used.add(template.rstrip("/"))
        return template.rstrip("/") in self._instead

    def _address(self, server: DocumentPart, base: str) -> str:
        template = server.text("url")
        if not template:
            raise Wrong(server.where, "it has no url")
        declared = server.get("variables")
        url = template
        for name in _VARIABLE.findall(template):
            url = url.replace("{" + name + "}", self._value(server, declared, name))
        full = url if "://" in url or not base else urljoin(base + "/", url)
        for known in (template.rstrip("/"), url.rstrip("/"), full.rstrip("/")):
            if known in self._instead:
                self._used.add(known)
                return self._instead[known]
        if "://" not in full:
            raise Wrong(server.where, f"the server {url!r} is relative to an address that the document does not tell")
        try:
            return checked(full)
        except ValueError as error:
            raise Wrong(server.where, str(error)) from None

    def _value(self, server: DocumentPart, declared: DocumentPart | None, name: str) -> str:
        variable = declared.get(name) if declared is not None else None
        allowed = variable.get("enum") if variable is not None else None
        choices = [told(choice.value) for choice in allowed.items()] if allowed is not None else []
        if name in self.variables:
            value = str(self.variables[name])
            if choices and value not in choices:
                raise ConfigError(f"the server variable {name!r} is one of {', '.join(choices)}, got {value!r}")
            return value
        default = variable.text("default") if variable is not None else ""
        if not default and (variable is None or "default" not in variable.fields()):
            raise Wrong(server.where, f"its variable {name!r} has no default; give variables={{{name!r}: ...}}")
        return default


def _given(url: str) -> str:
    try:
        return checked(url)
    except ValueError as error:
        raise ConfigError(f"base_url: {error}") from None
