"""What a user writes for an endpoint: `openai:https://host/v1?key=NAME&price=0.15,0.60#MODEL`. Defines `Address`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit

from pydantic import SecretStr

from ....trajectories.errors import ConfigError, UnknownName

__all__ = ["Address", "Price"]

_OPENAI = "api.openai.com"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens."""

    prompt: float
    completion: float
    cached: float | None = None
    """For those of the prompt that the server had in its own cache; None: as `prompt`."""

    @classmethod
    def parse(cls, text: str) -> Price:
        """`IN,OUT` or `IN,OUT,CACHED`. Raises `ValueError`."""
        numbers = [float(part) for part in text.split(",")]
        if len(numbers) not in (2, 3) or not all(0 <= n < float("inf") for n in numbers):
            raise ValueError(text)
        return cls(*numbers)

    def of(self, prompt: int, completion: int, cached: int) -> float:
        """US dollars for so many tokens."""
        cached = min(cached, prompt)
        of_cached = self.prompt if self.cached is None else self.cached
        return ((prompt - cached) * self.prompt + cached * of_cached + completion * self.completion) / 1e6


@dataclass(frozen=True, slots=True)
class Address:
    """Where an endpoint is, and how it is asked."""

    url: str
    """Without query, and without a slash at its end: requests go to `URL/chat/completions`."""
    model: str
    key: SecretStr | None = None
    """Sent as a bearer token to this URL and nowhere else."""
    key_from: str = ""
    """Name of the environment variable that it came from."""
    price: Price | None = None
    """Where the server does not say what an answer cost."""
    timeout: float = 300.0
    """Seconds for one answer, retries and waiting for the server included."""
    retries: int = 4
    """Times that a question is sent again after a failure in which no answer can have been made."""
    resend: bool = False
    """Also after failures in which an answer may have been made, and billed: 500, 502, 504, a broken connection."""
    cache: Path | None = None
    """A folder in which answers are kept by request, and found again."""
    temperature: float | None = None
    """In place of what is asked for: some models take only their own."""

    @classmethod
    def parse(cls, place: str, model: str) -> Address:
        """
        Args:
            place: The URL; its query holds the options, which are named as the fields: `?key=NAME&timeout=60`.
            model: The name that the server knows.

        Raises `ConfigError` (never with a key in it), `UnknownName` for an option that there is not.
        """
        parts = _url(place)
        shown = urlunsplit(parts._replace(query="", fragment=""))
        if not model:
            raise ConfigError(f"which model of {shown}? Write openai:{shown}#MODEL")
        address = cls(shown.rstrip("/").removesuffix("/chat/completions").rstrip("/"), model)
        variable = ""
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name == "key":
                variable = value
                if not _VARIABLE.fullmatch(value) or value.startswith("sk_"):
                    raise ConfigError("key= names the environment variable that holds the key, and is not the key")
            elif name not in _OPTIONS:
                raise UnknownName("option of an endpoint", name, ["key", *_OPTIONS])
            else:
                try:
                    address = replace(address, **{name: _OPTIONS[name][0](value)})
                except ValueError:
                    raise ConfigError(f"{name}= of an endpoint is {_OPTIONS[name][1]}, got {value!r}") from None
        return address._with_key(parts, variable)

    @property
    def local(self) -> bool:
        """Whether it is on this machine, where no proxy has a place."""
        return _LOOPBACK.fullmatch(urlsplit(self.url).hostname or "") is not None

    @property
    def label(self) -> str:
        """Model and place, for messages."""
        return f"{self.model} at {self.url}"

    def _with_key(self, parts: SplitResult, variable: str) -> Address:
        """The key of a variable that was named. Without a name: OPENAI_API_KEY, for OpenAI's own host and the one that
        OPENAI_BASE_URL names; a key goes to no other host by itself."""
        host = parts.hostname or ""
        own = host == _OPENAI or _origin(os.environ.get("OPENAI_BASE_URL", "")) == _origin(urlunsplit(parts))
        name = variable or ("OPENAI_API_KEY" if own else "")
        key = os.environ.get(name, "").strip() if name else ""
        if not key:
            if variable or host == _OPENAI:
                raise ConfigError(f"the environment variable {name} is to hold the key for {host}, and is not set")
            return self
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(f"the environment variable {name} holds no key: there are blanks or other signs in it")
        return replace(self, key=SecretStr(key), key_from=name)


def _url(place: str) -> SplitResult:
    try:
        parts = urlsplit(place)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound:
        raise ConfigError("an endpoint is written openai:URL#MODEL, with an http or https URL, such as "
                          "openai:http://localhost:8000/v1#qwen3")  # fmt: skip
    if parts.username or parts.password:
        raise ConfigError("the URL of an endpoint holds a name or password: put the key into an environment variable, "
                          "and name that by ?key=NAME")  # fmt: skip
    return parts


def _origin(url: str) -> tuple[str, str, int | None] | None:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None


def _seconds(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    if (value := int(text)) < 0:
        raise ValueError(text)
    return value


def _switch(text: str) -> bool:
    if text.lower() not in ("yes", "no", "true", "false", "1", "0"):
        raise ValueError(text)
    return text.lower() in ("yes", "true", "1")


def _folder(text: str) -> Path:
    if not text:
        raise ValueError(text)
    return Path(text).expanduser()


def _temperature(text: str) -> float:
    if not 0 <= (value := float(text)) < float("inf"):
        raise ValueError(text)
    return value


_OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "price": (Price.parse, "IN,OUT or IN,OUT,CACHED in US dollars for a million tokens"),
    "timeout": (_seconds, "a number of seconds above 0"),
    "retries": (_count, "a whole number from 0"),
    "resend": (_switch, "yes or no"),
    "cache": (_folder, "a folder"),
    "temperature": (_temperature, "a number from 0"),
}
