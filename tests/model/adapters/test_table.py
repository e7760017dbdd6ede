"""The adapters on a model that needs none of them."""

from pipeline.model.adapters.table import adapt
from tests.support.architectures import small_llama


def test_a_model_that_needs_none_stays_as_it_is() -> None:
    """A llama keeps the forward of every module, and gets no hook."""
    model = small_llama(0)
    adapt(model)
    for module in model.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
