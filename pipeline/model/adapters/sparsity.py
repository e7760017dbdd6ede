"""Sparse activations whose cut is a quantile of the normal distribution (Gemma 3n): a number, not an operator.

The model's code computes the quantile in each forward, with an inverse error function that ONNX does not have.
"""

from functools import partial

import torch
from transformers import PreTrainedModel


def compute_quantiles(model: PreTrainedModel) -> None:
    """Compute each layer's quantile once."""
    for module in model.modules():
        if hasattr(module, "_gaussian_topk") and isinstance(getattr(module, "activation_sparsity", None), float):
            share = torch.tensor(module.activation_sparsity, dtype=torch.float32)
            quantile = torch.special.ndtri(share).item()
            module._gaussian_topk = partial(_largest, quantile)


def _largest(quantile: float, inputs: torch.Tensor) -> torch.Tensor:
    """Keep what is above mean + quantile * standard deviation, less that cut; the rest is 0: [..., width]."""
    mean = inputs.mean(-1, keepdim=True)
    deviation = inputs.std(-1, keepdim=True, unbiased=False)
    return torch.relu(inputs - (mean + deviation * quantile))
