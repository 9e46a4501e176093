"""A toy engine, whole in this file: `toy:WORD` says the word that it is asked for, and WORD when that is done."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sparring.agents.engine import Generated, Sampling
from sparring.agents.loading import ENGINES, AgentSettings, Loaded, LoadedEngine, ModelSpec


class ToyTokenizer:
    """A token is a character."""

    alphabet = "unicode"


class ToyEngine:
    max_context = 4096

    def __init__(self, last: str) -> None:
        self.last = last
        self.version = 0

    async def generate(self, session: str, prompt: list[int], sampling: Sampling, seed: int) -> Generated:
        said = "".join(map(chr, prompt))
        asked = re.findall(r"Say (\w+)\.", said)
        text = self.last if "tool:" in said else f"!say word={asked[-1]}"
        ids = tuple(map(ord, text + "\0"))[: sampling.max_tokens]
        return Generated(ids, (-0.5,) * len(ids), ids[-1] in sampling.stop_ids)

    def release(self, session: str) -> None:
        pass

    def load(self, weights: Iterable[tuple[str, Any]]) -> None:
        self.version += 1


@ENGINES.register("toy")
def load(spec: ModelSpec, settings: AgentSettings, progress: object) -> Loaded:
    return LoadedEngine(ToyEngine(spec.place), ToyTokenizer())
