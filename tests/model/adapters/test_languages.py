"""Layers with a module for each language."""

import pytest
import torch

from pipeline.model.adapters.languages import choose_language
from tests.support.architectures import wider_model


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("own_norm", [False, True])
def test_rows_go_through_the_default_language(own_norm: bool, norm_first: bool) -> None:
    """The same numbers as when the model is given that language for every row, and not those of another."""
    model = wider_model("xmod")
    output = model.roberta.encoder.layer[0].output
    output.adapter_layer_norm = torch.nn.LayerNorm(64) if own_norm else None
    output.adapter_reuse_layer_norm, output.ln_before_adapter = not own_norm, norm_first
    hidden = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want, other = (output.lang_adapter(torch.full((2,), language), hidden) for language in (1, 0))
        choose_language(model)
        have = output.lang_adapter(torch.zeros(2), hidden)
    torch.testing.assert_close(have, want)
    assert not torch.allclose(have, other)
