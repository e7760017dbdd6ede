"""Causal tables by slots."""

import torch

from pipeline.model.adapters.windows import Window, replace_tables
from pipeline.model.cache import StaticCache, running
from tests.support.architectures import wider_model


def test_the_layers_of_gpt_neo() -> None:
    """A global layer sees all that the causal mask leaves, a local one 6 slots, from each row's own place."""
    model = wider_model("gpt_neo")
    replace_tables(model)
    windows = [module.bias for module in model.modules() if isinstance(getattr(module, "bias", None), Window)]
    assert [window.width for window in windows] == [None, 6]
    assert windows[0][...].ndim == 0
    cache = StaticCache([torch.zeros(2, 1, 16, 4)] * 2, torch.tensor([0, 9]), torch.zeros(2, 2))
    token = running.set(cache)
    try:
        seen = windows[1][...]
    finally:
        running.reset(token)
    assert seen.shape == (2, 1, 2, 16)
    assert seen[0].all()  # the causal mask hides what comes after
    assert [row.nonzero()[0].item() for row in seen[1, 0]] == [4, 5]


def test_numbers_in_tensors() -> None:
    """GPT-J's factor of the scores becomes a number."""
    model = wider_model("gptj")
    replace_tables(model)
    assert model.transformer.h[0].attn.scale_attn == 4.0
    assert isinstance(model.transformer.h[0].attn.scale_attn, float)
