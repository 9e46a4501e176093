"""`search_tool`: ranked full-text search (BM25) over documents that are given as text. No index outside memory."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

from ...trajectories.errors import ConfigError
from ...trajectories.messages import Json
from ..definition import Tool
from ..errors import InvalidArguments

__all__ = ["Bm25", "search_tool"]

K1 = 1.5
"""How soon a repeated word stops counting."""
B = 0.75
"""How much a long document counts for less: 0 not at all, 1 in full."""
MAX_QUERY = 1000
"""Characters of a query."""

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text, without case."""
    return _WORD.findall(text.casefold())


class Bm25:
    """BM25 (Okapi, with the always positive inverse document frequency) over a fixed set of documents."""

    def __init__(self, documents: Mapping[str, str]) -> None:
        self.ids = list(documents)
        counts = [Counter(words(text)) for text in documents.values()]
        lengths = [c.total() for c in counts]
        mean = sum(lengths) / len(lengths) if any(lengths) else 1.0
        self._norm = [K1 * (1 - B + B * n / mean) for n in lengths]
        self._postings: dict[str, list[tuple[int, int]]] = {}
        for index, count in enumerate(counts):
            for word, n in count.items():
                self._postings.setdefault(word, []).append((index, n))

    def rank(self, query: str) -> list[tuple[str, float]]:
        """(id, score) of all documents that share a word with the query, best first; ties in the given order."""
        scores: dict[int, float] = {}
        for word, times in Counter(words(query)).items():
            postings = self._postings.get(word, [])
            idf = math.log(1 + (len(self.ids) - len(postings) + 0.5) / (len(postings) + 0.5))
            for index, n in postings:
                scores[index] = scores.get(index, 0.0) + times * idf * n * (K1 + 1) / (n + self._norm[index])
        return [(self.ids[i], s) for i, s in sorted(scores.items(), key=lambda item: (-item[1], item[0]))]


def search_tool(documents: Mapping[str, str], *, most: int = 5, excerpt: int = 300) -> Tool:
    """The tool `search` over `documents` (id -> text).

    Args:
        documents: At least one.
        most: Results of one search.
        excerpt: Characters of a document that a result shows, around the first word that was asked for.
    """
    if not documents:
        raise ConfigError("search needs at least one document")
    if most < 1 or excerpt < 1:
        raise ConfigError(f"search needs most >= 1 and excerpt >= 1, not {most} and {excerpt}")
    texts = dict(documents)
    index = Bm25(texts)

    def search(query: str) -> Json:
        """Search the documents by words. Returns the best matches, best first; an empty list when none matches.

        Args:
            query: A few words.
        """
        if len(query) > MAX_QUERY:
            raise InvalidArguments(f"the query has {len(query)} characters; at most {MAX_QUERY} are read")
        wanted = set(words(query))
        if not wanted:
            raise InvalidArguments("the query has no word", hint="ask with a few words")
        return [
            {"id": name, "score": round(score, 3), "excerpt": _excerpt(texts[name], wanted, excerpt)}
            for name, score in index.rank(query)[:most]
        ]

    return Tool.from_function(search, idempotent=True)


def _excerpt(text: str, wanted: set[str], size: int) -> str:
    """`size` characters of the text around the first wanted word; cuts are marked."""
    if len(text) <= size:
        return text
    first = next((m.start() for m in _WORD.finditer(text) if m.group().casefold() in wanted), 0)
    start = max(0, min(first - size // 4, len(text) - size))
    return ("... " if start else "") + text[start : start + size] + (" ..." if start + size < len(text) else "")
