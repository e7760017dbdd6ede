"""The decoder: any causal LM of transformers behind the graph contract's inputs and outputs.

The model's code is not touched. transformers lets callers pass a cache of their own, and register a mask builder and
an attention function. These three are all that a static cache needs: pipeline.model.cache and pipeline.model.attention.
What some models need beyond that is in pipeline.model.adapters.

Not covered: encoder-decoders, and state other than keys and values; `cache_shapes` and the forward refuse those.
"""

from contextlib import ExitStack

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from pipeline.model.adapters.deferred import UnknownForm
from pipeline.model.adapters.table import adapt
from pipeline.model.arguments import with_cache, with_positions
from pipeline.model.attention import route_attention
from pipeline.model.cache import StaticCache, running
from pipeline.model.refusals import unsupported


class Decoder(nn.Module):
    """One forward of the graph contract: write new keys and values into the cache, attend over it.

    `past` and the second result hold the caches as key, value, key, value, ...: layer by layer.
    `logits`: "last" gives [batch, 1, vocab] at each row's last real token; "all" gives [batch, sequence, vocab],
    exactly 0 at padding. Raises UserError when attention did not go through the static cache in every layer.
    """

    def __init__(self, model: PreTrainedModel, logits: str) -> None:
        super().__init__()
        self.defers = route_attention(model)
        adapt(model)
        self.model = model
        self.logits = logits

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        cache_position: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        cache = StaticCache(past, cache_position, position_ids, defers=self.defers)
        last = attention_mask.sum(1) - 1  # [batch], index of the last real new token

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
                logits = self.model(input_ids=input_ids, **arguments).logits.to(past[0].dtype)
            except UnknownForm as form:
                raise unsupported(type(self.model).__name__, str(form)) from form
        through = len(cache.attended.intersection(range(len(cache))))
        if through != len(cache):
            raise unsupported(
                type(self.model).__name__,
                f"{through} of its {len(cache)} attention layers go through transformers' AttentionInterface",
            )
        if self.logits == "all":
            logits = logits * attention_mask[:, :, None].to(logits.dtype)
        return logits, cache.present


def cache_shapes(model: PreTrainedModel, cache_size: int) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Return per layer the shapes of key and value without batch, (kv_heads, cache_size, head_dim). They are found by
    running the model, which may be on the meta device, on one token: configurations spell these numbers in too many
    ways to read them there.

    Raises UserError for a model that does not keep exactly one key and one value per layer.
    """
    cache = DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=model.device), **with_cache(model, cache))
    shapes = []
    for index, layer in enumerate(cache.layers):
        if getattr(layer, "keys", None) is None:
            raise unsupported(type(model).__name__, f"layer {index} caches no keys and values")
        key, value = layer.keys.shape, layer.values.shape
        shapes.append(((key[1], cache_size, key[3]), (value[1], cache_size, value[3])))
    if not shapes:
        raise unsupported(type(model).__name__, "it fills no cache of keys and values")
    return shapes
