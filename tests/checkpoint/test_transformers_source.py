"""What is read from transformers' source is what it says once it is imported."""

import inspect

import pytest
from transformers import MambaForCausalLM
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pipeline.checkpoint import transformers_source as source


@pytest.mark.parametrize("name", [source.CAUSAL, source.MULTIMODAL, "MODEL_FOR_MASKED_LM_MAPPING_NAMES"])
def test_tables(name: str) -> None:
    """Those that are joined of others too."""
    assert dict(source.tables()[name]) == dict(getattr(modeling_auto, name))


def test_types() -> None:
    """All that have a configuration, the older ones that are added to the table included."""
    assert source.tables()[source.CONFIGURATIONS].keys() == {*CONFIG_MAPPING.keys()} - {*CONFIG_MAPPING._extra_content}


def test_parameters() -> None:
    """Of a class's forward, in their order; a type without a class has none."""
    found = source.class_of("mamba")
    assert found is not None
    forward = source.method(found, "forward")
    assert forward is not None
    real = inspect.signature(MambaForCausalLM.forward).parameters.values()
    want = {p.name: p.default is p.empty for p in real if p.name != "self" and p.kind is p.POSITIONAL_OR_KEYWORD}
    assert source.parameters(forward) == want
    assert source.class_of("vit") is None
