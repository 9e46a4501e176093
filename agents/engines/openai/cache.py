"""Answers on disk, by request: the same question to the same server is asked once. Off unless a folder is named."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["AnswerCache"]

_LOG = logging.getLogger("sparring.endpoint")


class AnswerCache:
    """A folder of answers. Many processes may share it. It holds what was asked and answered, and no key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._failed = False

    def get(self, url: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to this request, as the server gave it; None: it is not here, or its file is damaged."""
        try:
            held = json.loads(self._file(url, body).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(held, dict) or held.get("request") != body or not isinstance(held.get("answer"), dict):
            return None
        answer: dict[str, Any] = held["answer"]
        return answer

    def put(self, url: str, body: dict[str, Any], answer: dict[str, Any]) -> None:
        """Keeps an answer. Where it cannot be written, that is said once, and the run goes on."""
        file = self._file(url, body)
        name = ""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
            with os.fdopen(handle, "wb") as part:
                part.write(json.dumps({"url": url, "request": body, "answer": answer}).encode())
            os.replace(name, file)
        except OSError as error:
            with suppress(OSError):
                os.unlink(name)
            if not self._failed:
                _LOG.warning("the cache %s cannot be written (%s): answers are not kept", self.folder, error.strerror)
            self._failed = True

    def _file(self, url: str, body: dict[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps([url, body], sort_keys=True).encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:]}.json"
