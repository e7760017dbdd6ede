"""Find where a forward leaves the range of its type: the first module whose output is not finite."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel


def first_non_finite(model: PreTrainedModel, tokens: list[int]) -> str | None:
    """Return the name of the first module, in the order of the forward, whose output on these tokens holds an infinity
    or a NaN; None when the logits are finite. Modules that mask with infinities are no problem then."""
    found: list[str] = []

    def hook_for(name: str) -> Any:
        def hook(_: torch.nn.Module, __: Any, output: Any) -> None:
            if not found and not all(bool(t.isfinite().all()) for t in _tensors(output)):
                found.append(name or type(model).__name__)

        return hook

    hooks = [module.register_forward_hook(hook_for(name)) for name, module in model.named_modules()]
    try:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits
    finally:
        for handle in hooks:
            handle.remove()
    if logits.isfinite().all():
        return None
    return found[0]  # the model itself at least


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    """The floating-point tensors of a module's output."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
