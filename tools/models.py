"""Arguments as a pydantic model: what `Tool.from_model` makes. The model's own rules decide: its `extra`, its aliases,
its validators, what it coerces. Defines `ModelArguments` and `model_arguments`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, Field, RootModel, ValidationError, create_model
from pydantic.errors import PydanticUserError

from ..trajectories.errors import EnvError
from ..trajectories.messages import Json
from .schemas import KEPT, schema_of

__all__ = ["ModelArguments", "first_error", "model_arguments"]


@dataclass(frozen=True, slots=True)
class ModelArguments:
    """How the arguments of a call become the model that a tool's function takes."""

    model: type[BaseModel]
    """With a field for each value that is injected as an attribute."""
    parameters: dict[str, Json]
    """The JSON Schema that the agent sees: the model's, without what is injected."""
    names: frozenset[str]
    """All arguments that there are."""
    extra: str | None
    """What the model says becomes of others: ignore, allow or forbid. None: it does not say."""
    fields: tuple[str, ...]
    """Fields that are injected."""
    private: tuple[str, ...]
    """Private attributes that are injected."""
    keywords: tuple[str, ...]
    """Injected values that the function takes next to the model."""

    def read(self, arguments: Mapping[str, Json], injected: Mapping[str, Any]) -> tuple[BaseModel, dict[str, Any]]:
        """The model, and what the function takes next to it. Raises pydantic's `ValidationError`, what the model's
        own code raises, and `EnvError` for an injected value of another type than its field's."""
        sent = {name: value for name, value in arguments.items() if name not in injected}
        filled = {self._key(name): injected[name] for name in self.fields if name in injected}
        if filled:
            try:
                model = self.model.model_validate({**sent, **filled})
            except ValidationError as error:
                wrong = [first["loc"][0] for first in error.errors() if first["loc"] and first["loc"][0] in filled]
                if wrong:  # nobody's arguments
                    raise EnvError(
                        f"the value that is injected for {wrong[0]} does not fit {self.model.__name__}: "
                        f"{first_error(error)}; inject one of its type"
                    ) from None
                raise
        else:  # as JSON: a strict model takes a date from a text there
            model = self.model.model_validate_json(json.dumps(sent))
        for name in self.private:
            if name in injected:
                setattr(model, name, injected[name])
        return model, {name: injected[name] for name in self.keywords if name in injected}

    def unknown(self, arguments: Mapping[str, Json], *, checked: bool) -> list[str]:
        """Arguments that there are not, as far as the model refuses them; where it does not say, as far as names are
        `checked`. What is injected is none of them."""
        if self.extra == "forbid" or (self.extra is None and checked):
            return [name for name in arguments if name not in self.names]
        return []

    def _key(self, name: str) -> str:
        field = self.model.model_fields[name]
        return field.validation_alias if isinstance(field.validation_alias, str) else name


def model_arguments(
    model: type[BaseModel], fn: Callable[..., Any], name: str, injects: tuple[str, ...]
) -> ModelArguments:
    """Reads a model for the tool `name`; the same definition is read once in a process.

    Each of `injects` goes to the model's field or private attribute of that name and to the function's keyword. Where
    neither is there, it goes to an attribute that the model then has as well.

    Raises `EnvError` for a type that has no JSON Schema.
    """
    return _read(model, name, injects, _keywords(fn, injects))


@lru_cache(maxsize=KEPT)
def _read(model: type[BaseModel], name: str, injects: tuple[str, ...], taken: tuple[str, ...]) -> ModelArguments:
    if issubclass(model, RootModel):
        raise EnvError(f"tool {name!r}: {model.__name__} is a RootModel; arguments come by name, so give it fields")
    private = tuple(n for n in injects if n in model.__private_attributes__)
    more = [n for n in injects if n not in (*model.model_fields, *private, *taken)]
    try:
        full = _with(model, dict.fromkeys(more, (Any, Field(exclude=True, repr=False)))) if more else model
        fields = tuple(n for n in injects if n in full.model_fields)
        shown = _with(full, dict.fromkeys(fields, (Any, None))) if fields else model
    except (PydanticUserError, NameError) as error:
        raise EnvError(f"tool {name!r}: {injects} cannot be injected into {model.__name__}: {error}") from None
    parameters = schema_of(shown, name)
    hidden = {_shown_as(shown, n) for n in fields}
    parameters["properties"] = {k: v for k, v in parameters["properties"].items() if k not in hidden}
    extra = model.model_config.get("extra")
    if extra in ("ignore", "allow"):
        del parameters["additionalProperties"]
    names = frozenset(parameters["properties"])
    if model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name"):
        names |= frozenset(model.model_fields) - set(fields)
    return ModelArguments(full, parameters, names, extra, fields, private, taken)


def first_error(error: ValidationError) -> str:
    """Where a value is wrong, and why, in pydantic's words."""
    first = error.errors(include_url=False)[0]
    where = "/".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _with(model: type[BaseModel], fields: dict[str, Any]) -> type[BaseModel]:
    """The model with further fields, under its own name: its instances are instances of the model too."""
    made: type[BaseModel] = create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields)
    return made


def _shown_as(model: type[BaseModel], name: str) -> str:
    field = model.model_fields[name]
    return field.validation_alias if isinstance(field.validation_alias, str) else field.alias or name


def _keywords(fn: Callable[..., Any], names: tuple[str, ...]) -> tuple[str, ...]:
    """Which of these a function takes next to its first parameter, which is the model."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())[1:]
    except (TypeError, ValueError):  # it has no signature
        return ()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return names
    by_keyword = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return tuple(n for n in names if n in by_keyword)
