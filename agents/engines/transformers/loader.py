"""A folder, a known name or a hub name -> the embedded engine with that model in it."""

from __future__ import annotations

from ...engine import context_within
from ...loading import ENGINES, AgentSettings, Loaded, LoadedEngine, ModelSpec
from ...models import Progress, context_limit, device_named, load_model, load_tokenizer, resolve

__all__ = ["load"]


@ENGINES.register("transformers")
def load(spec: ModelSpec, settings: AgentSettings, progress: Progress | None) -> Loaded:
    """Weights in float32 or bfloat16, on the device that the settings name, or a GPU where there is one."""
    source = resolve(spec.place, progress=progress)
    device = device_named(settings.device)
    import torch

    from .engine import TransformersEngine

    half = settings.precision == "bf16" or (settings.precision == "auto" and device.startswith("cuda"))
    model = load_model(source, dtype=torch.bfloat16 if half else torch.float32, device=device)
    context = context_within(settings.max_context, context_limit(model.config), f"the model {spec.place}")
    tokenizer = load_tokenizer(source)
    engine = TransformersEngine(model, tokenizer=tokenizer, parallel=settings.parallel, max_context=context)
    return LoadedEngine(engine, tokenizer, source)
