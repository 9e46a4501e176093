"""Who plays: an agent from the options of a command. Models are fetched and loaded here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

from ..agents.agent import Agent
from ..agents.loading import ENGINES, AgentSettings, ModelSpec, load_agent, thinking_of, tool_style_of
from ..agents.rollouts import EpisodeSpec, Limits
from ..agents.scripts import SCRIPTED, scripted
from ..trajectories.errors import ConfigError, UnknownName
from ..trajectories.messages import Json
from .console import Watch
from .records import Recorder, refuse_other

__all__ = ["Player", "agent_named", "fetch_first", "known_or_there"]


@dataclass(frozen=True, slots=True)
class Player:
    """A scripted agent or a model, as the options say it."""

    agent: str | None = None
    model: str | None = None
    settings: AgentSettings = field(default_factory=AgentSettings)

    def __post_init__(self) -> None:
        if self.agent and self.model:
            raise ConfigError("give --agent or --model, not both")
        if self.agent and self.agent not in SCRIPTED:  # said before anything is loaded
            spec = ModelSpec.parse(self.agent)
            if spec.scheme == "transformers":
                if Path(self.agent).is_dir():
                    raise ConfigError(f"no scripted agent: {self.agent!r}; for a model: --model {self.agent}")
                raise UnknownName("agent", self.agent, SCRIPTED)
            if spec.scheme not in ENGINES:
                raise UnknownName("engine", spec.scheme, ENGINES)
            object.__setattr__(self, "model", self.agent)  # SCHEME:PLACE#MODEL names an agent too
            object.__setattr__(self, "agent", None)

    @property
    def label(self) -> str:
        """What the agent is called in tables."""
        return ModelSpec.parse(self.model).label if self.model else self.agent or "expert"

    @property
    def meta(self) -> dict[str, Json]:
        """What makes a model's episodes what they are, next to its weights."""
        if not self.model:
            return {}
        spec = ModelSpec.parse(self.model)
        served: dict[str, Json] = {
            "temperature": self.settings.temperature,
            "max_turn_tokens": self.settings.max_turn_tokens,
            "max_context": self.settings.max_context,
        }
        if "://" in spec.place:  # its weights, and how it is shown tools, are the server's
            url, _, options = spec.place.partition("?")
            if (temperature := dict(parse_qsl(options)).get("temperature")) is not None:
                served["temperature"] = float(temperature)
            return {**served, "endpoint": f"{spec.scheme}:{url}#{spec.model}"}
        return {
            **served,
            "tool_style": tool_style_of(self.model, self.settings.tool_style),
            "thinking": thinking_of(self.model, self.settings.thinking),
            "precision": self.settings.precision,
        }

    @property
    def written(self) -> float:
        """When the newest file of a model's folder was written, in seconds since the epoch; 0 for all else."""
        folder = Path(self.model).expanduser() if self.model else None
        if folder is None or not folder.is_dir():
            return 0.0
        return max((f.stat().st_mtime for f in folder.glob("*.safetensors")), default=0.0)

    def check(
        self,
        env: str,
        wanted: Sequence[EpisodeSpec],
        path: Path | None,
        limits: Limits,
        overwrite: bool,
        label: str = "",
    ) -> None:
        """Says before anything is loaded that there is no such model, or that the file is of another run.

        Args:
            env: What is played.
            wanted: The episodes.
            path: Where they go; None: nowhere.
            limits: When episodes are cut.
            overwrite: Whether what the file holds is deleted.
            label: What the agent is called; empty: its own label.
        """
        if self.model:
            known_or_there(self.model)
        if path is not None and path.is_file():
            refuse_other(Recorder(path, self.meta, self.written, overwrite), env, label or self.label, wanted, limits)

    def load(self, watch: Watch, index: int = 1, of: int = 1) -> Agent:
        """The agent. A model that is not here yet is fetched."""
        if not self.model:
            return scripted(self.agent or "expert")
        fetch_first(self.model, watch, index, of)
        watch.stage(f"loading {self.label}", index, of)
        return load_agent(self.model, self.settings, name=self.label)


def agent_named(name: str, watch: Watch) -> Agent:
    """A scripted agent or a model, with the settings that commands have by default."""
    fetch_first(name, watch)
    return load_agent(name)


def known_or_there(model: str) -> None:
    """Raises for a folder or a name that is no model. Fetches and loads nothing."""
    spec = ModelSpec.parse(model)
    if spec.scheme == "transformers":
        from ..agents.models import KNOWN_MODELS, TINY_MODELS, resolve

        if spec.place not in (*KNOWN_MODELS, *TINY_MODELS):
            resolve(spec.place)


def fetch_first(model: str, watch: Watch, index: int = 1, of: int = 1) -> None:
    """Fetches a known model that is not here yet, and says so. Raises for a folder or name that is no model."""
    spec = ModelSpec.parse(model)
    if spec.scheme != "transformers":
        return
    from ..agents.models import KNOWN_MODELS, fetched, resolve

    if spec.place in KNOWN_MODELS and not fetched(spec.place):
        watch.stage(f"fetching {spec.place}, once", index, of)
    resolve(spec.place, progress=lambda what, share: watch.progress(round(100 * share), 100, what))
