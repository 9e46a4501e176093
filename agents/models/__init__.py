"""Where models come from: known models by name, local folders, hub names, and tiny random ones for tests.

`fetch` brings a known model to the cache folder once and is offline afterwards; `resolve` turns a name or folder that a
user wrote after `--model` into something `load_model` and `load_tokenizer` can read; `make_tiny` builds a random model
of two layers with a byte-level tokenizer. What is done with a model (generation, training) is not here.
"""

from .cache import fetched, home, model_folder
from .download import fetch
from .fit import check_weights, context_limit, end_ids, not_finite, unknown_ids
from .known import KNOWN_MODELS, TINY_MODELS, KnownModel, Progress
from .load import device_named, load_model, load_tokenizer, resolve
from .packages import quiet
from .tiny import make_tiny

__all__ = [
    "KNOWN_MODELS",
    "TINY_MODELS",
    "KnownModel",
    "Progress",
    "check_weights",
    "context_limit",
    "device_named",
    "end_ids",
    "fetch",
    "fetched",
    "home",
    "load_model",
    "load_tokenizer",
    "make_tiny",
    "model_folder",
    "not_finite",
    "quiet",
    "resolve",
    "unknown_ids",
]
