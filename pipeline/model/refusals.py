"""Refuse, from its class and before any weight is loaded, a model that cannot be given a static cache.

Each rule looks for a property, not for a name. What passes here can still be refused by pipeline.model.decoder, which
runs the model: attention that does not go through transformers' AttentionInterface.
"""

import inspect
from collections.abc import Callable, Collection

from transformers import DynamicCache, PreTrainedModel

from pipeline.core.errors import UserError
from pipeline.core.tables import refusals
from pipeline.core.tables.refusals import Category, needed_inputs, other_state
from pipeline.model.adapters.tables import has_alibi, tables
from pipeline.model.arguments import cache_name, takes_positions
from pipeline.model.states import griffin, recurrences

# of transformers' caches: what these keep has a place in the contract
KNOWN_LAYERS = {
    "DummyLayer",  # nothing
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "DynamicIndexedLayer",
    "LinearAttentionLayer",
    "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
}


def unsupported_reason(model: PreTrainedModel) -> UserError | None:
    """Return the error that refuses a model; None when it can be built. Its weights may be on the meta device."""
    for category, rule in RULES:
        if reason := rule(model):
            return unsupported(type(model).__name__, reason, category)
    return None


def _layers(model: PreTrainedModel) -> list[str]:
    """Return the kinds of layers in the cache that transformers makes for a model."""
    try:
        return [type(layer).__name__ for layer in DynamicCache(config=model.config).layers]
    except AttributeError:  # a configuration that does not say how many layers there are
        return []


def _state(model: PreTrainedModel, parts: Collection[str], others: bool) -> str | None:
    """Return a reason where layers keep a state other than keys and values, of a kind whose name has one of the `parts`
    (others: none of them)."""
    kinds = _layers(model)
    found = [k for k in kinds if k not in KNOWN_LAYERS and any(part in k for part in parts) is not others]
    if not found:
        return None
    return f"{len(found)} of its {len(kinds)} layers keep a state other than keys and values ({found[0]})"


def _recurrent(model: PreTrainedModel) -> str | None:
    """A forward that takes a recurrence's state in place of a cache; layers whose state is of an unknown kind."""
    known = recurrences.known_layers(model) | {index for index, _ in griffin.blocks(model)}
    kinds = _layers(model)
    own = [index for index, kind in enumerate(kinds) if "LinearAttention" in kind and index not in known]
    if own:
        return f"{len(own)} of its {len(kinds)} layers keep a state other than keys and values, of a kind of their own"
    if cache_name(model) == "cache_params" and not known:
        return "its forward takes cache_params, a state other than keys and values, of a kind of its own"
    return other_state(_parameters(model))


def _indexer(model: PreTrainedModel) -> str | None:
    """Layers that cache more of an indexer than its keys."""
    if any(recurrences.names("indexer_position_ids", module) for module in model.modules()):
        return "its indexer caches positions as well"
    return _state(model, ("Index",), others=False)


def _own_cache(model: PreTrainedModel) -> str | None:
    """Layers of any other kind; a forward that takes no cache of transformers."""
    if cache_name(model) is None:
        return "its forward takes no past_key_values: it keeps no cache of keys and values"
    return _state(model, (), others=True)


def _encoder(model: PreTrainedModel) -> str | None:
    """Cross-attention to an encoder, which keeps keys and values as well."""
    if getattr(model.config, "is_encoder_decoder", False):
        return "it is an encoder-decoder: it generates from what its encoder has read"
    return None


def _inputs(model: PreTrainedModel) -> str | None:
    """A forward with arguments that have no default, besides the tokens."""
    return needed_inputs(_parameters(model))


def _parameters(model: PreTrainedModel) -> dict[str, bool]:
    """The parameters of a forward -> whether they have no default."""
    parameters = inspect.signature(model.forward).parameters.values()
    return {p.name: p.default is p.empty for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _positions(model: PreTrainedModel) -> str | None:
    """A forward that takes no positions: it counts them from the cache's length, one for all rows."""
    without_attention = set(_layers(model)) == {"LinearAttentionLayer"}
    if not (takes_positions(model) or tables(model) or has_alibi(model) or without_attention):
        return "its forward takes no position_ids: positions follow from the cache's length, the same for every row"
    return None


def _both_ways(model: PreTrainedModel) -> str | None:
    """An encoder: its attention layers are marked as one's, and none as a decoder's."""
    layers = [module for module in model.modules() if not isinstance(module, PreTrainedModel)]
    flags = [getattr(layer, name, None) for layer in layers for name in ("is_causal", "is_decoder")]
    if True in flags or False not in flags:
        return None
    return "its attention looks both ways, as an encoder's does"


RULES: tuple[tuple[Category, Callable[[PreTrainedModel], str | None]], ...] = (
    (Category.ENCODER_DECODER, _encoder),
    (Category.INPUTS, _inputs),
    (Category.RECURRENT, _recurrent),
    (Category.INDEXER, _indexer),
    (Category.OWN_CACHE, _own_cache),
    (Category.POSITIONS, _positions),
    (Category.ENCODER, _both_ways),
)


def unsupported(architecture: str, why: str, category: Category = Category.ATTENTION) -> UserError:
    """Return the error that refuses a model, with the reason."""
    return UserError(refusals.unsupported(architecture, why, category))
