"""Several wordings of what a model reads: descriptions, system texts, errors.

A phrase has one wording in an episode. All keep what the agent is to do, and the words by which an episode ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["CODES", "described", "failing", "instructed"]

Pick = Callable[[str, int], int]
"""(what is worded, how many wordings) -> which."""

_OPENINGS: dict[str, tuple[str, ...]] = {
    "Find": ("Look up", "Search for", "Locate"),
    "Read": ("Show", "Fetch", "Get"),
    "List": ("Show", "Enumerate", "Give"),
    "Show": ("Display", "Return", "Get"),
    "Get": ("Fetch", "Return", "Retrieve"),
    "Cancel": ("Call off", "Void", "Withdraw"),
    "Change": ("Alter", "Edit", "Replace"),
    "Set": ("Put", "Change", "Switch"),
    "Add": ("Put in", "Insert", "Append"),
    "Delete": ("Remove", "Erase", "Throw away"),
    "Move": ("Shift", "Transfer", "Bring"),
    "Book": ("Reserve", "Make a reservation of", "Take"),
    "Start": ("Open", "Begin", "Launch"),
    "Write": ("Store", "Save", "Put down"),
    "Run": ("Execute", "Carry out", "Start"),
    "Let": ("Make", "Have", "Let"),
    "Count": ("Tell the number of", "Tally", "Count up"),
    "Convert": ("Turn", "Exchange", "Convert"),
    "Replace": ("Substitute", "Exchange", "Swap"),
}
_FRAMES = ("{}", "{}", "{}", "This tool: {}", "Purpose: {}", "What it does: {}")

_TASKS = (
    (
        "with the tools, one call at a time",
        ("with these tools, one call each turn", "by calling tools, a single one at a time"),
    ),
    ("When all is done answer Done.", ("Answer Done when everything is done.", "Once all is done, answer Done.")),
    ("When all is done answer Done", ("Once everything is done answer Done",)),
    (
        "If it cannot be done answer Cannot.",
        ("Answer Cannot if it cannot be done.", "Should it be impossible, answer Cannot."),
    ),
    ("Then say Done.", ("Say Done after that.",)),
    ("If it cannot be done say Cannot.", ("Say Cannot if it cannot be done.",)),
)  # fmt: skip
_SYSTEMS = (
    "{}", "{}", "{} Read the list of tools first.", "You are an agent. {}", "Rules: {}",
    "{} The tools have names of their own here.",
)  # fmt: skip

_WHOLE = {
    "retry": ("make the same call again", "repeat the call"),
    "try again": ("one more time may help", "repeat the request"),
}
"""Texts that are reworded where there is nothing else."""

_ERRORS = (
    ("session expired", ("the session has ended", "your session is no longer valid", "signed out")),
    ("connection reset", ("the connection broke", "link lost")),
    ("internal error", ("something broke inside", "unexpected failure")),
    ("no answer in time", ("it took too long to answer", "timed out")),
    ("it may have happened, check", ("look whether it took effect", "its effect is unknown: verify")),
    ("look it up again", ("read it anew", "search for it once more")),
    ("is no longer there", ("does not exist any more", "is gone")),
    ("was removed", ("has been taken away", "was retired")),
    ("is not permitted", ("is not allowed", "is forbidden")),
    ("is used up", ("is exhausted", "has run out")),
    ("say that it cannot be done", ("tell that it is impossible", "report that it cannot be done")),
    ("correct the arguments", ("fix the arguments", "the arguments need to be put right")),
    ("use one of the tools given", ("choose from the list of tools", "take a tool that is listed")),
    ("write one JSON object with name and arguments", ("a call is one JSON object: name and arguments",)),
    ("is a required property", ("is missing, and needed", "has to be given")),
    ("is not one of", ("is none of",)),
    ("is stale", ("is out of date", "is no longer current")),
    ("no tool is called", ("there is no tool named", "unknown tool")),
    ("is now called", ("has been renamed to",)),
)  # fmt: skip
"""Texts of the toolbox and of faults."""

CODES: dict[str, tuple[str, ...]] = {
    "malformed": ("bad_json", "unreadable"),
    "unknown_tool": ("no_such_tool", "undefined_function"),
    "invalid_arguments": ("bad_request", "wrong_arguments", "validation_failed"),
    "unavailable": ("service_down", "temporarily_unavailable", "busy"),
    "rate_limited": ("too_many_requests", "throttled", "slow_down"),
    "timeout": ("timed_out", "no_response", "deadline_exceeded"),
    "unauthenticated": ("login_required", "not_signed_in", "unauthorized"),
    "forbidden": ("not_allowed", "access_denied", "permission_denied"),
    "not_found": ("missing", "no_match", "does_not_exist"),
    "conflict": ("out_of_date", "state_mismatch", "precondition_failed"),
    "gone": ("retired", "removed", "discontinued"),
    "tool_error": ("failure", "server_error", "internal"),
    "crashed": ("died", "process_lost"),
}
"""Outcome -> codes in its place."""


def described(text: str, pick: Pick) -> str:
    """A description in other words."""
    first, _, rest = text.partition(" ")
    others = _OPENINGS.get(first, ())
    frame, opening = divmod(pick(text, len(_FRAMES) * (len(others) + 1)), len(others) + 1)
    if opening and rest:
        text = f"{others[opening - 1]} {rest}"
    return _FRAMES[frame].replace("{}", text)


def instructed(text: str, pick: Pick) -> str:
    """A system text in other words."""
    for phrase, others in _TASKS:
        text = _other(text, phrase, others, pick)
    return _SYSTEMS[pick(text, len(_SYSTEMS))].replace("{}", text)


def failing(text: str, pick: Pick) -> str:
    """The text of a failure in other words."""
    if text in _WHOLE:
        return (text, *_WHOLE[text])[pick(text, len(_WHOLE[text]) + 1)]
    for phrase, others in _ERRORS:
        text = _other(text, phrase, others, pick)
    return text


def _other(text: str, phrase: str, others: tuple[str, ...], pick: Pick) -> str:
    if phrase not in text or not (chosen := pick(phrase, len(others) + 1)):
        return text
    # whole words: the text of a tool may hold the phrase as a part of something else
    return _PHRASES[phrase].sub(lambda _: others[chosen - 1], text, count=1)


_PHRASES = {phrase: re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)") for phrase, _ in (*_TASKS, *_ERRORS)}
