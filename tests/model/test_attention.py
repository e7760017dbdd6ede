"""The attention function and the mask builder that transformers calls."""

import pytest
import torch

from pipeline.model.decoder import Decoder
from tests.support.architectures import small_llama


def test_attention_outside_of_a_forward_is_an_error() -> None:
    """A decoder's model that is run by itself has no static cache to attend over."""
    model = Decoder(small_llama(0), "last").model
    with pytest.raises(LookupError):
        model(input_ids=torch.ones(1, 2, dtype=torch.int64))
