"""What of a quantization_config is read, and what is said of the rest."""

from typing import Any

import pytest

from pipeline.packed.methods import METHODS, quantization, unsupported


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "that is not read; gptq, awq"),
        ({"load_in_8bit": True}, "that is not read"),
        ({"quant_method": "gptq", "bits": 3}, "3 bits, and 2, 4, 8 are read"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "checkpoint_format is marlin"),
        ({"quant_method": "gptq", "is_marlin_format": True}, "checkpoint_format is marlin"),
        ({"quant_method": "awq", "version": "GEMV"}, "version is gemv, and gemm is read"),
        ({"quant_method": "awq", "w_bit": 3}, "3 bits"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "nvfp4-pack-quantized"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "mixed-precision",
                "config_groups": {"a": {"weights": {"type": "int", "num_bits": 3}, "format": "marlin-24"}},
            },
            "marlin-24",
        ),
        ({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}}, "sparse-bitmask"),
        ({"quant_method": "compressed-tensors", "transform_config": {"config_groups": {"R1": {}}}}, "rotates"),
    ],
)
def test_what_is_not_read_is_named(given: dict[str, Any], says: str) -> None:
    """The method, or the option that is not."""
    assert says in unsupported(quantization({"quantization_config": given}))[0]


@pytest.mark.parametrize("name", METHODS)
def test_methods_as_most_checkpoints_have_them(name: str) -> None:
    """Also in the part of a configuration that describes a text model."""
    given = {"quant_method": name}
    assert unsupported(quantization({"text_config": {"quantization_config": given}})) == []
    assert quantization({"compression_config": given}) == given


def test_no_quantization() -> None:
    """None, or an empty one."""
    assert quantization({"quantization_config": {}, "text_config": None}) == {}
