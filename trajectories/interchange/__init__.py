"""Episodes in the forms of other programs, in and out: one file a form, reading and writing next to each other.

    from sparring.trajectories.interchange import read, trl, write_jsonl

    write_jsonl(trl.prompt_completion(episodes).rows, path)
    again = read(path, "trl").trajectories

`FORMS` holds all forms by name. A form of yours is one file that registers a `ForeignForm` there.
"""

from ..files import write_lines
from ._failures import Failures
from ._form import FORMS, ExchangeReport, Exported, ForeignForm, Row, Writer, readable, writer_for, writers
from ._messages import SourceEpisode, SourceMessage, chat_message, tool_call, tool_specs
from ._reading import Imported, read
from ._writing import to_dataset, write_jsonl

__all__ = [
    "FORMS",
    "ExchangeReport",
    "Exported",
    "Failures",
    "ForeignForm",
    "Imported",
    "Row",
    "SourceEpisode",
    "SourceMessage",
    "Writer",
    "chat_message",
    "read",
    "readable",
    "to_dataset",
    "tool_call",
    "tool_specs",
    "write_jsonl",
    "write_lines",
    "writer_for",
    "writers",
]
