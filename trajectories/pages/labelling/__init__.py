"""`sparring label`: which two episodes are shown next, and the local page on which people say which went better."""

from .queue import LabelPair, label_pairs
from .server import LabelServer

__all__ = ["LabelPair", "LabelServer", "label_pairs"]
