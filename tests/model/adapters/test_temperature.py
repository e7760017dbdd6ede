"""Queries that are scaled by their position."""

import torch

from pipeline.model.adapters.temperature import scale_by_own_position
from pipeline.model.cache import StaticCache, running
from tests.support.architectures import small_llama, small_model


def test_each_row_has_its_own_scale() -> None:
    """As the model's own code would scale it behind so many tokens; layers with positions stay."""
    model = small_model("llama4_text", floor_scale=4)
    attentions = [layer.self_attn for layer in model.model.layers]
    plain = attentions[1].q_proj.weight
    scale_by_own_position(model)
    assert [bool(attention.q_proj._forward_hooks) for attention in attentions] == [False, True, False]
    assert not attentions[1].attn_temperature_tuning
    hidden = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))
    token = running.set(StaticCache([], torch.tensor([0, 9]), torch.zeros(2, 3)))
    try:
        found = attentions[1].q_proj(hidden)
    finally:
        running.reset(token)
    slots = torch.tensor([[0, 1, 2], [9, 10, 11]])
    scales = torch.log1p((slots + 1.0).div(4).floor()) * attentions[1].attn_scale + 1.0
    torch.testing.assert_close(found, hidden @ plain.T * scales[:, :, None])
    assert scales[1].min() > 1.1


def test_other_models_stay() -> None:
    """A model without such layers gets no hook."""
    model = small_llama(0)
    scale_by_own_position(model)
    assert not any(module._forward_hooks for module in model.modules())
