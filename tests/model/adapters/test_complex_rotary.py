"""Complex rotary embeddings as pairs of real numbers: the same results, in the model's own forward only."""

import pytest
import torch

from pipeline.model.adapters.complex_rotary import Pair, use_real_parts
from tests.support.architectures import small_llama, small_model


@pytest.mark.parametrize("architecture", ["llama4_text", "deepseek_v2"])
def test_the_model_gives_the_same(architecture: str) -> None:
    """And no complex tensor is made; outside of its forward torch makes them as before."""
    original, other = small_model(architecture), small_model(architecture)
    use_real_parts(other)
    made = []
    for module in other.modules():
        module.register_forward_hook(lambda _, __, out: made.append(out))
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    with torch.no_grad():
        torch.testing.assert_close(other(ids).logits, original(ids).logits, rtol=1e-4, atol=1e-5)
    assert any(isinstance(out, Pair) for out in made)
    assert not any(isinstance(out, torch.Tensor) and out.is_complex() for out in made)
    assert torch.polar(torch.ones(1), torch.ones(1)).is_complex()


def test_a_pair_is_a_complex_tensor() -> None:
    """Each operation that it has gives torch's numbers; another one is an error, not a wrong number."""
    a, b = (torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    wanted = torch.view_as_real((torch.view_as_complex(a) * torch.view_as_complex(b) * 2.0)[:, :, None].unsqueeze(1))
    one, other = Pair(*a.unbind(-1)), Pair(*b.unbind(-1))
    found = torch.view_as_real((one.to(torch.float32) * other * 2.0)[:, :, None].unsqueeze(1))
    torch.testing.assert_close(found, wanted)
    assert one.device == a.device
    with pytest.raises(TypeError):
        torch.angle(one)


def test_other_models_stay() -> None:
    """A rotary embedding of cos and sin needs nothing."""
    model = small_llama(0)
    use_real_parts(model)
    assert "forward" not in vars(model)
