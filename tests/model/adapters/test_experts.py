"""Experts of transformers run through the operator, or are refused by the name of what they compute."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.longcat_flash.modeling_longcat_flash import LongcatFlashExperts

from pipeline.checkpoint import loading
from pipeline.core.errors import UserError
from pipeline.core.schema import Model, Source
from pipeline.model.adapters.experts import IMPLEMENTATION, adapt_experts
from pipeline.model.operators import HALVES, INTERLEAVED, Activation
from tests.support.architectures import ARCHITECTURES


class Holder(PreTrainedModel):  # type: ignore[misc]  # transformers is not typed
    """A model of one module."""

    base_model_prefix = ""
    config_class = AutoConfig

    def __init__(self, config: Any, kind: type[nn.Module]) -> None:
        super().__init__(config)
        self.experts: Any = kind(config)
        for number, parameter in enumerate(self.parameters()):
            draw = torch.Generator().manual_seed(number)
            parameter.data = torch.randn(parameter.shape, generator=draw) / 4

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True


def config(architecture: str, **changes: Any) -> Any:
    """A small configuration."""
    return AutoConfig.for_model(architecture, hidden_size=16, num_local_experts=4, **changes)


def test_gpt_oss_computes_the_same() -> None:
    """Transposed weights, biases, interleaved gates with limits, a scaled sigmoid and a shift."""
    model = Holder(config("gpt_oss", intermediate_size=32), GptOssExperts)
    given = (torch.randn(5, 16) * 8, torch.tensor([[0, 1], [1, 2], [0, 2], [2, 1], [0, 3]]), torch.rand(5, 2))
    model.config._experts_implementation = "eager"
    with torch.no_grad():
        before = model.experts(*given)
        adapt_experts(model)
        assert model.config._experts_implementation == IMPLEMENTATION
        torch.testing.assert_close(model.experts(*given), before, rtol=1e-4, atol=1e-4)
    assert model.experts.kvforge_activation == Activation(INTERLEAVED, "silu", 1.702, 7.0, False, 1.0)


def test_identity_experts_give_their_input_back() -> None:
    """Experts 4 and 5 of LongCat have no weights; a token may go to both, or to one and the last real one."""
    options = {"n_routed_experts": 4, "zero_expert_num": 2, "expert_ffn_hidden_size": 32}
    model = Holder(config("longcat_flash", **options), LongcatFlashExperts)
    given = (torch.randn(4, 16), torch.tensor([[0, 1], [4, 5], [3, 4], [5, 0]]), torch.rand(4, 2))
    with torch.no_grad():
        before = model.experts(*given)
        adapt_experts(model)
        torch.testing.assert_close(model.experts(*given), before)
    assert model.experts.kvforge_activation == Activation(HALVES, "silu")
    assert model.experts.gate_up_proj.shape[0] == 4  # without the rows that nothing reads


def test_an_unknown_activation_is_refused_by_name() -> None:
    """Not computed as the nearest one."""
    model = Holder(config("gpt_oss", intermediate_size=32), GptOssExperts)
    model.experts._apply_gate = lambda product: product[..., ::2].tanh() * product[..., 1::2]
    with pytest.raises(UserError, match="the activation of its experts is none of silu, gelu"):
        adapt_experts(model)


def test_experts_that_end_in_a_norm_are_refused() -> None:
    """It would be left out."""
    model = Holder(config("gpt_oss", intermediate_size=32), GptOssExperts)
    model.experts.has_post_expert_norm = True
    with pytest.raises(UserError, match="end in a norm"):
        adapt_experts(model)


def test_a_model_without_experts_is_left_alone() -> None:
    """No module is touched."""
    model = loading.load(Model(source=Source.random, architecture="llama", config=ARCHITECTURES["llama"]), None)
    forwards = [module.forward.__func__ for module in model.modules() if hasattr(module.forward, "__func__")]
    adapt_experts(model)
    assert forwards == [module.forward.__func__ for module in model.modules() if hasattr(module.forward, "__func__")]
