"""A small Python package whose tests fail: find the bug, fix it, run the tests in the sandbox."""

from .env import CodeRepair

__all__ = ["CodeRepair"]
