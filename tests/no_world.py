"""The world of a toolbox that is tested by itself."""

from __future__ import annotations

from typing import Any


class World:
    """No environment: nothing to rename."""

    hooks: frozenset[str] = frozenset()

    def rotate_id(self, tool: str, arguments: dict[str, Any]) -> bool:
        return False

    def distort(self, tool: str, arguments: dict[str, Any], value: Any) -> Any:
        return None
