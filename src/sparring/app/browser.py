"""Opens a page in the user's browser, where there is one to open it in. Defines `open_page`."""

from __future__ import annotations

import os
import sys

__all__ = ["open_page"]


def open_page(url: str) -> None:
    """Not in a browser of the terminal, which would take it over."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform in ("darwin", "win32") or display:
        import webbrowser

        webbrowser.open(url)
