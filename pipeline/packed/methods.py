"""Which quantized checkpoints are read, by the quantization_config of their config.json alone."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

BITS = (2, 4, 8)  # of integers; those of 3 are spread over two words
FORMATS_OF_COMPRESSED = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")


def quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """The quantization_config of a config.json, with its method; empty where there is none."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in ("quantization_config", "compression_config"):
            given = part.get(key)
            if isinstance(given, dict) and given:
                # bitsandbytes' first versions did not write their name
                old = "bitsandbytes" if any("load_in" in name for name in given) else "an unnamed method"
                return {**given, "quant_method": str(given.get("quant_method") or given.get("quant_type") or old)}
    return {}


def unsupported(config: Mapping[str, Any]) -> list[str]:
    """What of a quantization_config is not read: the method itself, or some of its options."""
    check = METHODS.get(config["quant_method"])
    return [f"that is not read; {', '.join(METHODS)} are"] if check is None else list(check(config))


def _gptq(config: Mapping[str, Any]) -> Iterator[str]:
    kind = "marlin" if config.get("is_marlin_format") else config.get("checkpoint_format", "gptq")
    if kind not in ("gptq", "gptq_v2"):
        yield f"its checkpoint_format is {kind}, and gptq and gptq_v2 are read"
    if config.get("bits", 4) not in BITS:
        yield f"it has {config['bits']} bits, and {', '.join(map(str, BITS))} are read"


def _awq(config: Mapping[str, Any]) -> Iterator[str]:
    version, bits = str(config.get("version", "gemm")).lower(), config.get("bits", config.get("w_bit", 4))
    if version != "gemm":
        yield f"its version is {version}, and gemm is read"
    if bits != 4:
        yield f"it has {bits} bits, and 4 are read"


def _compressed(config: Mapping[str, Any]) -> Iterator[str]:
    weights = [group["weights"] for group in groups_of(config)]
    kinds = {config.get("format"), *(group.get("format") for group in groups_of(config))}
    if others := kinds.difference((*FORMATS_OF_COMPRESSED, "mixed-precision", "dense", None)):
        shown = ", ".join(sorted(map(str, others)))
        yield f"its format is {shown}, and {', '.join(FORMATS_OF_COMPRESSED)} are read"
    bits = {weight.get("num_bits") for weight in weights if weight.get("type") == "int"}
    if other_bits := bits.difference(BITS):
        yield f"it has {', '.join(map(str, other_bits))} bits, and {', '.join(map(str, BITS))} are read"
    if (config.get("sparsity_config") or {}).get("format", "dense") != "dense":
        yield f"it is sparse: {config['sparsity_config']['format']}"
    if (config.get("transform_config") or {}).get("config_groups"):
        yield "it rotates activations: transform_config"


def groups_of(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The groups of layers of compressed-tensors whose weights are quantized."""
    return [group for group in (config.get("config_groups") or {}).values() if group.get("weights")]


def _any(_: Mapping[str, Any]) -> Iterator[str]:
    yield from ()


METHODS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "gptq": _gptq,
    "awq": _awq,
    "fp8": _any,
    "compressed-tensors": _compressed,
    "mxfp4": _any,
}
