"""Keep the text decoder of a model for images or sound, without the weights of its other parts.

The model's forward stays: given no image and no sound, it does not reach the parts that are removed.
"""

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel


class _LeftOut(nn.Module):
    """In place of a part: a forward may ask for its device and type, image or not."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.device, self.dtype = device, dtype


def is_multimodal(model: PreTrainedModel) -> bool:
    """Tell whether the text decoder is one part of the model, with a configuration of its own."""
    try:
        return model.config.get_text_config(decoder=True) is not model.config
    except ValueError:  # it has several
        return False


def keep_text_part(model: PreTrainedModel) -> list[str]:
    """Remove, in place, what is not the text decoder, its embedding or its head; return the names of what had weights,
    none for a model of text alone."""
    if not is_multimodal(model):
        return []
    try:
        text = [model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()]
    except NotImplementedError:  # transformers does not say which part it is
        return []
    if text[0] is model:
        return []
    config = model.config.get_text_config(decoder=True)
    if getattr(config, "use_bidirectional_attention", None) == "vision":
        config.use_bidirectional_attention = None  # tokens of an image see each other; there is none
    others = list(_others(model, [part for part in text if part is not None], ""))
    for owner, name, _ in others:
        owner._modules[name] = _LeftOut(model.device, model.dtype)
    return [path for *_, path in others]


def _others(module: nn.Module, text: list[nn.Module], prefix: str) -> Iterator[tuple[nn.Module, str, str]]:
    """Yield owner, name and path of each outermost module that has weights and neither is, holds nor belongs to one of
    the `text` modules."""
    for name, child in module.named_children():
        if any(child is part for part in text):
            continue
        if any(part is inner for part in text for inner in child.modules()):
            yield from _others(child, text, f"{prefix}{name}.")
        elif next(child.parameters(), None) is not None:
            yield module, name, prefix + name
