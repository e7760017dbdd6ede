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

# by name, as not every version of transformers has the last: a layer without a state of its own
KEYS_AND_VALUES = {"DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer"}


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
    found = [k for k in kinds if k not in KEYS_AND_VALUES and any(part in k for part in parts) is not others]
    if not found:
        return None
    return f"{len(found)} of its {len(kinds)} layers keep a state other than keys and values ({found[0]})"


def _recurrent(model: PreTrainedModel) -> str | None:
    """Layers with a convolution's or a recurrence's state; a forward that takes such a state in place of a cache."""
    by_layer = ("LinearAttention", "Mamba", "Conv", "Recurrent")
    return other_state(_parameters(model)) or _state(model, by_layer, others=False)


def _indexer(model: PreTrainedModel) -> str | None:
    """Layers that cache an indexer's keys as well, to choose which tokens to attend to."""
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
    if not (takes_positions(model) or tables(model) or has_alibi(model)):
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
