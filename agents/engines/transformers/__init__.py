"""The embedded engine. Its loader is light; the engine itself loads torch, and so comes when it is first used."""

from typing import TYPE_CHECKING, Any

from .loader import load

if TYPE_CHECKING:
    from .engine import EngineStats, TransformersEngine

__all__ = ["EngineStats", "TransformersEngine", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import engine

    return getattr(engine, name)
