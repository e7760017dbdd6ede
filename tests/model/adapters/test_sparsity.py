"""Sparse activations with their quantile computed once."""

import torch

from pipeline.model.adapters.sparsity import compute_quantiles
from tests.support.architectures import small_model


def test_the_cut_is_that_of_the_model() -> None:
    """The same numbers pass, in the layer that is sparse."""
    model = small_model("gemma3n_text", activation_sparsity_pattern=[0.95, 0.0, 0.0, 0.0])
    sparse = next(module for module in model.modules() if getattr(module, "activation_sparsity", 0.0) == 0.95)
    inputs = torch.randn(2, 5, 200, generator=torch.Generator().manual_seed(0))
    want = sparse._gaussian_topk(inputs)
    compute_quantiles(model)
    assert 0 < (want > 0).float().mean() < 0.1
    torch.testing.assert_close(sparse._gaussian_topk(inputs), want)
