"""The packages that models need: whether they are installed, and how they are kept silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from ...trajectories.errors import MissingExtra

__all__ = ["need", "quiet"]


def need(*packages: str) -> None:
    """Raises `MissingExtra` for the first one that is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(package, "train")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice from transformers meanwhile."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
