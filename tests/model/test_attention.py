"""The attention function and the mask builder that transformers calls."""

import pytest
import torch
from transformers import AttentionInterface

from pipeline.core.errors import UserError
from pipeline.model.attention import IMPLEMENTATION
from pipeline.model.decoder import Decoder
from tests.support.architectures import small_llama


def test_attention_outside_of_a_forward_is_an_error() -> None:
    """A decoder's model that is run by itself has no static cache to attend over."""
    model = Decoder(small_llama(0), "last").model
    with pytest.raises(LookupError):
        model(input_ids=torch.ones(1, 2, dtype=torch.int64))


def test_what_the_attention_function_does_not_know_is_refused() -> None:
    """An argument of a model's own that changes the result, such as a bias, by its name and the class."""
    attend = AttentionInterface()[IMPLEMENTATION]
    q = torch.zeros(1, 1, 1, 1)
    with pytest.raises(UserError, match="Linear cannot be given a static cache: its attention takes position_bias"):
        attend(torch.nn.Linear(1, 1), q, q, q, None, scaling=1.0, position_bias=torch.zeros(1))
