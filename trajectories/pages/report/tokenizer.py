"""What the tokens of an episode say, for a page that shows them. Defines `token_texts`, `find_tokenizer`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import DataError, MissingExtra

__all__ = ["find_tokenizer", "token_texts"]

_FILE = "tokenizer.json"


def token_texts(folder: Path) -> Callable[[int], str]:
    """Reads a model's tokenizer and gives what tells a token's text; empty for an id that it does not know.

    Raises `DataError` where there is none that can be read, `MissingExtra` without the package.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtra("tokenizers", "train") from None
    path = folder / _FILE
    if not path.is_file():
        raise DataError(f"{folder} holds no {_FILE}: expected the folder of a model")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise DataError(f"{path} is no tokenizer: {error}") from None

    def text(id: int) -> str:
        try:
            word = tokenizer.id_to_token(id)
        except OverflowError:
            return ""
        if word is None:
            return ""
        if "\u2581" in word:  # SentencePiece's mark of a space, which decoding a single token would drop
            return str(word.replace("\u2581", " "))
        return str(tokenizer.decode([id], skip_special_tokens=False)) or str(word)

    return text


def find_tokenizer(folder: Path) -> Path | None:
    """The first folder of a run that holds a tokenizer: of a stage's model, say. None: there is none."""
    for pattern in (_FILE, f"*/{_FILE}", f"*/*/{_FILE}"):
        found = next(iter(sorted(folder.glob(pattern))), None)
        if found is not None:
            return found.parent
    return None
