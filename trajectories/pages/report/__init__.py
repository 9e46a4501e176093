"""What was measured, for people: one self-contained HTML page, a table and an episode view for the terminal."""

from .report import Report, write_report
from .safe import visible
from .terminal import leaderboard_table, show_trajectory, text_table
from .tokenizer import find_tokenizer, token_texts
from .wording import Arm

__all__ = [
    "Arm",
    "Report",
    "find_tokenizer",
    "leaderboard_table",
    "show_trajectory",
    "text_table",
    "token_texts",
    "visible",
    "write_report",
]
