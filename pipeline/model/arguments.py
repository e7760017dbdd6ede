"""What a model of transformers takes, and by which name: cache, positions, and how it attends."""

import inspect
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from pipeline.core.logs import errors_only

NAMES = ("cache", "past_key_values", "cache_params")  # 5.24 renamed the second to the first; Mamba takes the third


def cache_name(model: PreTrainedModel) -> str | None:
    """Return the name of the argument; None for a model that takes no cache of transformers."""
    accepted = inspect.signature(model.forward).parameters
    return next((name for name in NAMES if name in accepted), None)


def with_cache(model: PreTrainedModel, cache: Cache) -> dict[str, Any]:
    """Return the keyword arguments with which a forward reads and fills a cache."""
    return {cache_name(model) or NAMES[-1]: cache, "use_cache": True}


def takes_positions(model: PreTrainedModel) -> bool:
    """Whether its forward takes position_ids, or passes them on to its text model."""
    accepted = inspect.signature(model.forward).parameters
    return "position_ids" in accepted or hasattr(model.config, "text_config")


def with_positions(model: PreTrainedModel, position_ids: torch.Tensor) -> dict[str, Any]:
    """Return the keyword argument with positions, counted from 0, as the model numbers them; none if it takes none."""
    return {"position_ids": position_ids + first_position(model)} if takes_positions(model) else {}


def first_position(model: PreTrainedModel) -> int:
    """The number that a model gives its first token by itself: RoBERTa's start after that of its padding token."""
    for module in model.modules():
        if hasattr(module, "create_position_ids_from_input_ids") and isinstance(module.padding_idx, int):
            return module.padding_idx + 1
    return 0


def set_attention(model: PreTrainedModel, implementation: str) -> bool:
    """Choose the attention function; return False for a class that writes attention out by itself and takes none."""
    decoder = _decoder(model)
    if not decoder._can_set_attn_implementation():  # for such a class transformers warns and does nothing
        return False
    with errors_only("transformers.modeling_utils"):  # it warns of the configurations of parts that were left out
        for part in dict.fromkeys((model, decoder)):
            part.set_attn_implementation(implementation)
    return True


def _decoder(model: PreTrainedModel) -> PreTrainedModel:
    """Return the part that attends, of a class of its own in a model for images; the model, where it does not say."""
    try:
        decoder = model.get_decoder()
    except (NotImplementedError, AttributeError):
        return model
    return decoder if isinstance(decoder, PreTrainedModel) else model
