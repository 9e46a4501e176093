"""Failure on purpose: kinds of fault, and what of them is in force in an episode. Which may strike, a plan tells."""

from . import kinds
from .base import FAULTS, Blocked, Fault, FaultMemory, FaultSite, Injection, Struck, WayOut, fault, fault_rows
from .state import FaultState
from .target import Target, call_range, target_of

__all__ = [
    "FAULTS",
    "Blocked",
    "Fault",
    "FaultMemory",
    "FaultSite",
    "FaultState",
    "Injection",
    "Struck",
    "Target",
    "WayOut",
    "call_range",
    "fault",
    "fault_rows",
    "kinds",
    "target_of",
]
