"""Load a model from a GGUF file in fp32; what transformers' loader leaves out is applied here or refused.

transformers' loader reads most keys and skips the rest silently: rotary scaling, a head size that is not the
configuration's default, tensors that it has no name for. Weights that the file lacks stay random.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig, PreTrainedConfig, PreTrainedModel
from transformers import modeling_gguf_pytorch_utils as loader
from transformers.integrations.gguf import is_gguf_arch_supported

from pipeline.checkpoint import gguf_metadata, weights_check
from pipeline.checkpoint.gguf_metadata import FREQUENCIES, SAFETENSORS, Header
from pipeline.checkpoint.gguf_reader import fast_gguf_loading, in_own_folder
from pipeline.checkpoint.weights_check import Wording
from pipeline.core.errors import Problem, UserError, one_line

# Llama 3.1 and 3.2: a GGUF file holds the factors that these make, not the numbers that they are made of
LLAMA3 = tuple(
    {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    | {"original_max_position_embeddings": 8192}
    for factor in (8.0, 32.0)
)
# key of the metadata -> attribute of the configuration
STATED = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
}
BY_LAYER = {("lfm2", "attention.head_count_kv")}  # architecture and key of lists that transformers applies
# numbers that llama.cpp computes with and transformers' loader has no place for -> the values that change nothing
NEUTRAL: dict[str, tuple[float, ...]] = {
    "attention.scale": (0.0,),  # and the model's own, see _scale
    "attention.clamp_kqv": (0.0,),
    "attention.causal": (True,),
    "attention.output_scale": (0.0,),
    "attention.temperature_scale": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "logit_scale": (0.0, 1.0),
    "attention.shared_kv_layers": (0,),
}


def configuration(path: Path) -> PreTrainedConfig:
    """Return the model's configuration, with the sizes and rotary positions of the metadata.

    Raises UserError when the file is damaged or split, or states what cannot be applied; OSError and ValueError as
    transformers raises them.
    """
    found = gguf_metadata.problems(path)
    if found:
        raise UserError(found)
    with fast_gguf_loading(), in_own_folder(path) as where, _loading(path):
        config = AutoConfig.from_pretrained(**where)
        apply(gguf_metadata.read(path), config, path)
    return config


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    """Raise UserError for what transformers raises when a file is not what it expects."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, RuntimeError, StrictDataclassError) as error:
        what = f"transformers does not load {path}: {one_line(error)}"
        raise UserError(Problem(what, "model.path", SAFETENSORS)) from error


def load(path: Path, config: PreTrainedConfig | None = None) -> PreTrainedModel:
    """The model in fp32 on the CPU, in eval mode; `config` is what `configuration` gave.

    Raises UserError as `configuration` does, and when the file lacks a weight or has a tensor without a place in the
    model, or of another shape.
    """
    config = config or configuration(path)
    header = gguf_metadata.read(path)
    with fast_gguf_loading(), in_own_folder(path) as where, _loading(path):
        model, info = AutoModelForCausalLM.from_pretrained(
            **where,
            config=config,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),  # the weights as fp32, on the file's own grid
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # all of them are reported below
        )
        unused = [] if is_gguf_arch_supported(header.architecture) else list(_unused(header, model))
    info["unexpected_keys"] = [*info["unexpected_keys"], *unused]
    wording = Wording("model.path", str(path), "its metadata", "download or convert it again, whole", SAFETENSORS)
    if problems := list(weights_check.problems(model, info, wording)):
        raise UserError(problems)
    model.config.name_or_path = str(path.parent)  # not the folder that it was read from, which is gone
    result: PreTrainedModel = model.eval()
    return result


def _unused(header: Header, model: PreTrainedModel) -> Iterator[str]:
    """Names of the file's tensors that transformers' loader skips."""
    processor = loader.TENSOR_PROCESSORS.get(header.architecture, loader.TensorProcessor)
    known = loader.get_gguf_hf_weights_map(model, processor(config=model.config.to_dict()))
    for tensor in header.tensors:
        # experts' tensors stand in the map without their suffix
        if tensor.name not in known and tensor.name.removesuffix(".weight") not in known and tensor.name != FREQUENCIES:
            yield tensor.name


def apply(header: Header, config: Any, path: Path) -> None:
    """Set the sizes and rotary positions of the metadata in the configuration.

    Raises UserError for what the configuration has no place for.
    """
    problems = []
    for key, attribute in STATED.items():
        stated, own = header.get(key), getattr(config, attribute, None)
        if isinstance(stated, list):  # one a layer
            if len(set(stated)) > 1 and (header.architecture, key) not in BY_LAYER:
                what = f"{path}: {header.architecture}.{key} differs between layers: {stated}"
                problems.append(Problem(what, "model.path", SAFETENSORS))
            stated = stated[0] if len(set(stated)) == 1 else None
        if stated is None or stated == own or (own is None and not hasattr(config, attribute)):
            continue
        setattr(config, attribute, stated)
    if header.architecture == "gemma3":  # it has no key: llama.cpp tells the 27B model by its number of layers
        heads, width = config.num_attention_heads, config.head_dim
        config.query_pre_attn_scalar = config.hidden_size // heads if config.num_hidden_layers == 62 else width
    keys, values = (header.get(f"attention.{part}_length") for part in ("key", "value"))
    if None not in (keys, values) and keys != values:
        problems.append(Problem(f"{path}: its keys are {keys} wide and its values {values}", "model.path", SAFETENSORS))
    for key, neutral in NEUTRAL.items():
        value = header.get(key, neutral[0])
        if value in neutral or (key == "attention.scale" and np.isclose(value, _scale(config), rtol=1e-6, atol=0)):
            continue  # files hold the scale in fp32
        what = f"{path}: {header.architecture}.{key} = {value} is not applied from GGUF files"
        problems.append(Problem(what, "model.path", SAFETENSORS))
    problems += [Problem(f"{path}: {what}", "model.path", SAFETENSORS) for what in _rotary(header, config, path)]
    if problems:
        raise UserError(problems)


def _rotary(header: Header, config: Any, path: Path) -> Iterator[str]:
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        return
    # Gemma 3 has one set for layers that see all, which scaling is for, and one for those with a window
    own = parameters.get("full_attention", parameters)
    base = header.get("rope.freq_base")
    if base is not None:
        own["rope_theta"] = base
    local = header.get("rope.freq_base_swa")
    if local is not None and "sliding_attention" in parameters:
        parameters["sliding_attention"]["rope_theta"] = local
    width, rotated = _head(config), header.get("rope.dimension_count")
    if rotated is not None and rotated != width * own.get("partial_rotary_factor", 1.0):
        if "partial_rotary_factor" not in own:
            yield f"{rotated} of {width} dimensions are rotated, and transformers rotates all"
        else:
            own["partial_rotary_factor"] = rotated / width
    kind, factor = header.rotary_scaling
    if kind == "linear":
        own |= {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        own |= {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": header.get(
                "rope.scaling.original_context_length", header.get("context_length")
            ),
            "beta_fast": header.get("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": header.get("rope.scaling.yarn_beta_slow", 1.0),
        }
        for key in ("attn_factor", "yarn_ext_factor", "yarn_attn_factor", "yarn_log_multiplier"):
            if header.get(f"rope.scaling.{key}") not in (None, 1.0):
                yield f"{header.architecture}.rope.scaling.{key} is not applied from GGUF files"
    if any(tensor.name == FREQUENCIES for tensor in header.tensors):
        yield from _factors(own, int(rotated or width), path)


def _head(config: Any) -> int:
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(width)


def _scale(config: Any) -> float:
    """Return the factor on the products of queries and keys."""
    return float((getattr(config, "query_pre_attn_scalar", None) or _head(config)) ** -0.5)


def _factors(parameters: dict[str, Any], width: int, path: Path) -> Iterator[str]:
    """Find the known scaling that makes the file's factors, one for each pair of dimensions."""
    (tensor,) = (tensor for tensor in GGUFReader(path).tensors if tensor.name == FREQUENCIES)
    stored = np.asarray(tensor.data, np.float32).ravel()
    if (stored == 1).all():
        return
    if parameters.get("rope_type", "default") == "default":
        for known in LLAMA3:
            made = llama3_factors(known, parameters["rope_theta"], width)
            if made.shape == stored.shape and np.allclose(made, stored, rtol=1e-5, atol=0):
                parameters |= known
                return
    yield f"the rotary factors in its tensor {FREQUENCIES} are not those of a known scaling"


def llama3_factors(known: dict[str, Any], base: float, width: int) -> np.ndarray:
    """Return the divisors of Llama 3.1's scaling for the frequency of each pair of dimensions, fp64 [width / 2]."""
    lengths = 2 * np.pi * base ** (np.arange(0, width, 2) / width)
    context, low, high = (
        known[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    smooth = np.clip((context / lengths - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / known["factor"] + smooth))
