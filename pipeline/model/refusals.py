"""Refuse, from its class and before any weight is loaded, a model that cannot be given a static cache.

Each rule looks for a property, not for a name. What passes here can still be refused by pipeline.model.decoder, which
runs the model: attention that does not go through transformers' AttentionInterface, attention sinks.
"""

import inspect

from transformers import DynamicCache, PreTrainedModel

from pipeline.core.errors import Problem, UserError
from pipeline.model.adapters.tables import has_alibi, tables
from pipeline.model.arguments import cache_name, takes_positions

# by name, as not every version of transformers has the last: a layer without a state of its own
KEYS_AND_VALUES = {"DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer"}


def unsupported_reason(model: PreTrainedModel) -> str | None:
    """Why a model cannot be built; None when it can be built. Its weights may be on the meta device."""
    accepted = inspect.signature(model.forward).parameters
    return _state(model) or _inputs(model, set(accepted)) or _both_ways(model) or _experts(model, set(accepted))


def _state(model: PreTrainedModel) -> str | None:
    """Layers that keep a state other than keys and values."""
    try:
        layers = DynamicCache(config=model.config).layers
    except AttributeError:  # a configuration that does not say how many layers there are
        return None
    kinds = [type(layer).__name__ for layer in layers]
    others = [kind for kind in kinds if kind not in KEYS_AND_VALUES]
    if not others:
        return None
    return f"{len(others)} of its {len(kinds)} layers keep a state other than keys and values ({others[0]})"


def _inputs(model: PreTrainedModel, accepted: set[str]) -> str | None:
    """A forward that takes no cache, or no positions: it counts them from the cache's length, one for all rows."""
    if cache_name(model) is None:
        return "its forward takes no past_key_values: it keeps no cache of keys and values"
    if not (takes_positions(model) or tables(model) or has_alibi(model)):
        return "its forward takes no position_ids: positions follow from the cache's length, the same for every row"
    return None


def _both_ways(model: PreTrainedModel) -> str | None:
    """An encoder: its attention layers are marked as one's, and none as a decoder's."""
    layers = [module for module in model.modules() if not isinstance(module, PreTrainedModel)]
    flags = [getattr(layer, name, None) for layer in layers for name in ("is_causal", "is_decoder")]
    if True in flags or False not in flags:
        return None
    advice = "; set is_decoder to true in its configuration if it was trained as a decoder"
    return f"it is an encoder: its attention looks both ways{advice if hasattr(model.config, 'is_decoder') else ''}"


def _experts(model: PreTrainedModel, accepted: set[str]) -> str | None:
    """Experts that run as one grouped product, or a forward that passes output_router_logits on to the attention."""
    grouped = getattr(model.config, "_experts_implementation", None) == "grouped_mm"  # by class, used or not
    experts = grouped and any(type(module).__name__.endswith("Experts") for module in model.modules())
    if experts or "output_router_logits" in accepted:
        return "it is a mixture of experts, which is not supported yet"
    return None


def unsupported(architecture: str, why: str) -> UserError:
    """Return the error that refuses a model, with the reason."""
    return UserError(
        Problem(
            f"{architecture} cannot be given a static cache: {why}",
            "model",
            "use a decoder whose layers keep keys and values only and take transformers' attention functions",
        )
    )
