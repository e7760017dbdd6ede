"""How a forward of transformers takes its cache: 5.24 renamed `past_key_values` to `cache`."""

import inspect
from typing import Any

from transformers import Cache, PreTrainedModel

NAMES = ("cache", "past_key_values")


def cache_name(model: PreTrainedModel) -> str | None:
    """Return the name of the argument; None for a model that takes no cache of keys and values."""
    accepted = inspect.signature(model.forward).parameters
    return next((name for name in NAMES if name in accepted), None)


def with_cache(model: PreTrainedModel, cache: Cache) -> dict[str, Any]:
    """Return the keyword arguments with which a forward reads and fills a cache."""
    return {cache_name(model) or NAMES[-1]: cache, "use_cache": True}
