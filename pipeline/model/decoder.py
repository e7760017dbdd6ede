"""The decoder: any causal LM of transformers behind the graph contract's inputs and outputs.

The model's code is not touched. transformers lets callers pass a cache of their own, and register a mask builder and
an attention function. These three are all that a static cache needs: pipeline.model.cache and pipeline.model.attention.
What some models need beyond that is in pipeline.model.adapters.

Not covered: encoder-decoders, and states that pipeline.model.states does not know; `cache_shapes` and the forward
refuse those.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.core.contract import CACHED
from pipeline.model.adapters.deferred import UnknownForm
from pipeline.model.adapters.table import adapt
from pipeline.model.arguments import with_cache, with_positions
from pipeline.model.attention import route_attention
from pipeline.model.cache import StaticCache, running
from pipeline.model.refusals import unsupported
from pipeline.model.states.original import empty_cache, may_keep_nothing, of_cache


class Decoder(nn.Module):
    """One forward of the graph contract: write new keys and values into the cache, attend over it.

    `past` and the second result hold what the layers keep between steps: layer by layer, and in each the parts that
    `layers` names (as cache_shapes finds them), key and value where it is left out.
    `logits`: "last" gives [batch, 1, vocab] at each row's last real token; "all" gives [batch, sequence, vocab],
    exactly 0 at padding. Raises UserError when attention did not go through the static cache in every layer.
    """

    def __init__(
        self, model: PreTrainedModel, logits: str, layers: Sequence[Mapping[str, tuple[int, ...]]] | None = None
    ) -> None:
        super().__init__()
        self.layers = None if layers is None else [tuple(layer) for layer in layers]
        self.defers = route_attention(model)
        adapt(model)
        self.model = model
        self.logits = logits
        self.dtype = model.get_input_embeddings().weight.dtype

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        cache_position: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        cache = StaticCache(past, cache_position, position_ids, attention_mask, self.layers, defers=self.defers)
        last = cache.counts - 1  # [batch], index of the last real new token
        if any(layer.states for layer in cache.layers):
            last = last.clamp(min=0)  # an idle row has no token at all: one would change its states

        def gather_last(_: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            (hidden,) = args  # [batch, sequence, hidden_size]
            return (hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2])),)

        with ExitStack() as stack:
            stack.callback(running.reset, running.set(cache))
            if self.logits == "last":
                # gathered before the head, so that the vocabulary's product runs for one token of each row
                head = self.model.get_output_embeddings()
                stack.enter_context(head.register_forward_pre_hook(gather_last))
            arguments = with_positions(self.model, position_ids) | with_cache(self.model, cache)
            try:
                logits = self.model(input_ids=input_ids, **arguments).logits.to(self.dtype)
            except UnknownForm as form:
                raise unsupported(type(self.model).__name__, str(form)) from form
        attending = {index for index, layer in enumerate(cache.layers) if layer.keys is not None}
        through = len(cache.attended & attending)
        if through != len(attending):
            raise unsupported(
                type(self.model).__name__,
                f"{through} of its {len(attending)} attention layers go through transformers' AttentionInterface",
            )
        if self.logits == "all":
            logits = logits * attention_mask[:, :, None].to(logits.dtype)
        return logits, cache.present


def cache_shapes(model: PreTrainedModel, cache_size: int) -> list[dict[str, tuple[int, ...]]]:
    """Return per layer the shape of each part that it keeps between steps, without batch: "key" and "value",
    (kv_heads, cache_size, head_dim), and states (pipeline.model.states). They are found by running the model, which may
    be on the meta device, on one token: configurations spell these numbers in too many ways to read them there.

    Raises UserError for a model that keeps anything else, or nothing.
    """
    cache = empty_cache(model)
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=model.device), **with_cache(model, cache))
    layers = []
    for index, kept in enumerate(of_cache(model, cache)):
        if not kept and not may_keep_nothing(cache, index):
            raise unsupported(type(model).__name__, f"layer {index} caches no keys and values")
        shapes = {part: tuple(tensor.shape[1:]) for part, tensor in kept.items()}
        layers.append({part: (s[0], cache_size, s[2]) if part in CACHED else s for part, s in shapes.items()})
    if not any(layers):
        raise unsupported(type(model).__name__, "it fills no cache of keys and values")
    return layers
