"""An engine without a model, for tests and for trying things out: `fake:Done.` answers "Done." to everything."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..engine import DEFAULT_CONTEXT, Generated, Sampling, context_within
from ..fakes import ByteTokenizer
from ..loading import ENGINES, AgentSettings, Loaded, LoadedEngine, ModelSpec
from ..models import Progress

__all__ = ["FakeEngine"]


class FakeEngine:
    """Says what it is told: ids from a list, by turn of the session, or those that a function makes of the prompt.

    An answer is cut at the most tokens that are asked for. When a list is at its end, its last answer is repeated.
    """

    def __init__(
        self,
        answers: Sequence[Sequence[int]] | Callable[[list[int]], Sequence[int]],
        *,
        logprob: float = -1.0,
        max_context: int = DEFAULT_CONTEXT,
    ) -> None:
        """
        Args:
            logprob: Of each id, in nats.
        """
        self.answers = answers
        self.logprob = logprob
        self.max_context = max_context
        self.version = 0
        self.calls = 0
        self.weights: dict[str, Any] = {}
        """What was loaded last."""
        self.released: list[str] = []
        self._turns: Counter[str] = Counter()

    async def generate(self, session: str, prompt: list[int], sampling: Sampling, seed: int) -> Generated:
        await asyncio.sleep(0)  # as with a real one, others get their turn meanwhile
        self.calls += 1
        turn = self._turns[session]
        self._turns[session] += 1
        said = self.answers(prompt) if callable(self.answers) else self.answers[min(turn, len(self.answers) - 1)]
        ids = tuple(said[: sampling.max_tokens])
        return Generated(ids, (self.logprob,) * len(ids), bool(ids) and ids[-1] in sampling.stop_ids)

    def release(self, session: str) -> None:
        self.released.append(session)

    def load(self, weights: Iterable[tuple[str, Any]]) -> None:
        self.weights = dict(weights)
        self.version += 1


@ENGINES.register("fake")
def load(spec: ModelSpec, settings: AgentSettings, progress: Progress | None) -> Loaded:
    """An engine that answers with the text after the colon."""
    tokenizer = ByteTokenizer()
    ids = tokenizer(f"{spec.place}<|im_end|>")["input_ids"]
    return LoadedEngine(FakeEngine([ids], max_context=context_within(settings.max_context, None)), tokenizer)
