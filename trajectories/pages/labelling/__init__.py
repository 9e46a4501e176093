"""`sparring label`: which two episodes are shown next, and the local page on which people say which went better."""

from .queue import Comparison, comparisons
from .server import LabelServer

__all__ = ["Comparison", "LabelServer", "comparisons"]
