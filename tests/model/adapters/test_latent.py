"""Latent attention over the latents: the expansion of keys and values on the other side of the products."""

import pytest
import torch

from pipeline.model.adapters.latent import absorb_expansion
from tests.support.architectures import small_llama, small_model


@pytest.mark.parametrize("architecture", ["minicpm3", "deepseek_v2"])
def test_the_expansion_is_absorbed(architecture: str) -> None:
    """Scores and results of one head over latents are those of the expanded keys and values."""
    model = small_model(architecture)
    attention = model.model.layers[1].self_attn
    draw = torch.Generator().manual_seed(0)
    latents, rotated = (torch.randn(2, 1, 5, size, generator=draw) for size in (32, 8))
    query = torch.randn(2, 4, 3, 24, generator=draw)
    with torch.no_grad():
        keys, values = attention.expand_kv(latents, rotated)
        absorb_expansion(model)
        absorbed = attention.absorbed
        assert attention.expand_kv(latents, rotated) == (latents, rotated)
        own_query, own_keys, own_values = absorbed.before(query, latents, rotated)
        torch.testing.assert_close(own_query @ own_keys.mT, query @ keys.mT, rtol=1e-4, atol=1e-4)
        weights = torch.rand(2, 4, 3, 5, generator=draw)
        torch.testing.assert_close(absorbed.after(weights @ own_values), weights @ values, rtol=1e-4, atol=1e-4)
    assert not any(name.endswith("kv_b_proj.weight") for name, _ in model.named_parameters())
    absorb_expansion(model)  # a second decoder of the same model
    assert attention.absorbed is absorbed


def test_another_expansion_stays() -> None:
    """An attention whose own code gives other keys keeps it."""
    model = small_model("minicpm3")
    for layer in model.model.layers:
        own = layer.self_attn.expand_kv
        layer.self_attn.expand_kv = lambda latents, rotated, own=own: tuple(2 * part for part in own(latents, rotated))
    absorb_expansion(model)
    assert all(hasattr(layer.self_attn, "kv_b_proj") for layer in model.model.layers)
    llama = small_llama(0)
    absorb_expansion(llama)
    assert not hasattr(llama.model.layers[0].self_attn, "absorbed")
