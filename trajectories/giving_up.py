"""When a message says that the task cannot be done: the one definition.

It is asked where an episode ends (or a foreign record is read), to tell `StopReason.DECLINED` from
`StopReason.FINISHED`. Everyone else reads the stop reason.
"""

from __future__ import annotations

import re

__all__ = ["says_it_cannot"]

_LEAD = re.compile(
    r"(?:(?:i am|i'm|we are|we're)? ?(?:so |very )?sorry|i (?:must )?apologi[sz]e|my apologies|unfortunately"
    r"|regrettably|i(?: am|'m) afraid|no|but|and|so|however|thus|therefore|then|answer:|please note)\b"
    r"[ ,:.-]*(?:(?:but|that)\b ?)?"
)
"""What a refusal may begin with."""
_SUBJECT = (
    r"(?:that )?(?:(?!(?:you|if|why|when|what|who|whom|that|which|because|until|unless|not|never|no|nothing|nobody"
    r"|nowhere|none)\b)[\w'@.-]+ ){0,6}?"
)
"""What cannot, or cannot be done: at most six words, and none that turns the sentence round."""
_POLITE = r"(?:wait|thank|help but|complain|stress|overstate|emphasi[sz]e|believe|express|imagine|recommend|praise)\b"
"""After "cannot", these say something else."""
_REFUSAL = re.compile(
    rf"{_SUBJECT}(?:(?:cannot|can not|can't|cant)\b(?! {_POLITE})|unable\b|not able\b|impossible\b|not possible\b"
    r"|not (?:be )?(?:permitted|allowed) to\b)"
)
_PAST = re.compile(rf"{_SUBJECT}(?:could not|couldn't)\b(?! {_POLITE})")
"""What was tried in vain: a refusal only where nothing else is said after it."""
_REASON = re.compile(r", (?:so|hence|thus|therefore) ")
_HINT = re.compile(r"(?i)can|able|possible|could|permitted|allowed")
"""What every refusal has in it."""
_TURNED = re.compile(r"\b(?:but|so|however|then|instead)\b")
_DONE = re.compile(
    r"(?:it is |it's |that is |that's |this is |all is |everything is |all |task )?(?:done|completed?|finished)"
)
_LONG = 400
"""Characters of a sentence that are looked at."""
_MARKS = str.maketrans({"’": "'", "‘": "'", "*": "", "_": "", "`": "", '"': "", "“": "", "”": "", "#": "", ">": ""})


def says_it_cannot(message: str) -> bool:
    """Whether `message`, the agent's last, says that the task cannot be done.

    It does where its first or its last sentence is a refusal ("Cannot find it.", "I am unable to refund it.", "This is
    not possible.", "Sorry, the order can't be cancelled."). It does not where it also claims in a word that all is done
    ("Cannot do it. Done."), where it asks ("Can't you say which?"), or where the refusal is a manner of speaking ("I
    cannot wait to help").
    """
    if _HINT.search(message) is None:  # most messages: nothing else to look at
        return False
    text = " ".join(message.translate(_MARKS).lower().split())
    sentences = [s.strip() for s in re.findall(r"[^.!?;]+(?:\.(?=\S)[^.!?;]+)*[.!?;]*", text) if s.strip(" .!?;")]
    pieces = [p for p in re.split(r"[.!?;:,]+(?:\s|$)", text) if p.strip()]
    if not sentences or _DONE.fullmatch(pieces[0].strip()) or _DONE.fullmatch(pieces[-1].strip()):
        return False
    first, last = _bare(sentences[0]), _bare(_REASON.split(sentences[-1])[-1])
    if _PAST.match(last) and not _TURNED.search(last):
        return True
    return any(_REFUSAL.match(sentence) is not None and not sentence.endswith("?") for sentence in (first, last))


def _bare(sentence: str) -> str:
    """Without what only leads to what it says. A refusal is short: of a long sentence the beginning will do."""
    sentence = sentence[:_LONG] + sentence[-1] if len(sentence) > _LONG else sentence
    while (found := _LEAD.match(sentence)) and found.end():
        sentence = sentence[found.end() :].lstrip()
    return sentence
