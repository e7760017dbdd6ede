"""The sizes of a model that the cost of its build follows from, found without its weights.

The model is made on PyTorch's meta device, where tensors have shapes and no memory, and reads one token there: that
shows what its cache holds, in whatever words its configuration has. Code that comes with a checkpoint is not run here:
for such a model the tensors in the headers of its files are counted, and config.json tells the rest.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from pipeline.checkpoint import gguf_metadata
from pipeline.checkpoint.files import CONFIG
from pipeline.config import sources
from pipeline.core.contract import CACHED
from pipeline.core.errors import Problem, UserError, first_line
from pipeline.core.files import read_json
from pipeline.core.schema import Model, Source

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SLIDING = "sliding_attention"  # a layer's type in a configuration; the type of all layers where it names none
OF_EXPERTS = 3  # dimensions of a weight that holds a module's experts


@dataclass(frozen=True)
class ModelSizes:
    """Counts of numbers, not bytes, unless a name says so.

    parameters: of all weights, tied ones once. embedding, head: of the embedding and of the LM head; head is 0 where
    they are one tensor. linear: of all other matrices, which quantize rounds; experts: of those that hold all experts
    of a module; largest: of the largest matrix. inputs: of one token in all different inputs of linear layers;
    hessians: of X^T X of these. cache_slot: of one token in the caches of all layers; windowed_slot: of the layers with
    a sliding window, which is of so many tokens; states: of a row in states of one size for all texts. stored_bytes: of
    the checkpoint's files; 0 for random weights, and on the hub.
    """

    parameters: int
    embedding: int
    head: int
    linear: int
    experts: int
    largest: int
    inputs: int
    hessians: int
    cache_slot: int
    layers: int
    heads: int
    hidden: int
    vocab: int
    stored_bytes: int = 0
    windowed_slot: int = 0
    window: int = 0
    states: int = 0


def model_sizes(model: Model) -> ModelSizes:
    """Return the sizes of a model. Raises UserError when its files or its configuration cannot be read."""
    link = sources.find(model) or Path()
    stored = stored_bytes(link) if model.source in (Source.local, Source.gguf) else 0
    if model.trust_remote_code:
        if model.source is not Source.local:
            what = f"{model.id} has code of its own, so its sizes are not known before it is loaded"
            raise UserError(Problem(what, "model.trust_remote_code", "download it, and give its folder: source local"))
        return _of_headers(link, stored)
    from pipeline.checkpoint import loading  # with torch and transformers, which take seconds to import

    empty = loading.empty_model(model, link, loading.configuration(model, link))
    assert empty is not None  # only for code of its own
    return _of_empty(empty, stored)


def stored_bytes(checkpoint: Path) -> int:
    """Count the bytes of a GGUF file, or of a folder's safetensors files."""
    files = [checkpoint] if checkpoint.is_file() else checkpoint.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def stored_shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """Read the shape of each tensor of a checkpoint from the headers of its files."""
    if checkpoint.is_file():
        return {tensor.name: tensor.shape for tensor in gguf_metadata.read(checkpoint).tensors}
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in list(tensors.keys())}
    return found


def _of_headers(checkpoint: Path, stored: int) -> ModelSizes:
    shapes, config = stored_shapes(checkpoint), read_json(checkpoint / CONFIG)
    text = config.get("text_config") or config

    def key(name: str, default: int) -> int:
        value = text.get(name)
        return value if isinstance(value, int) else default

    tables = sorted((prod(shape) for shape in shapes.values() if key("vocab_size", -1) in shape), reverse=True)[:2]
    embedding, head = (*tables, 0, 0)[:2]
    matrices = [prod(shape) for shape in shapes.values() if len(shape) > 1 and key("vocab_size", -1) not in shape]
    hidden, layers, heads = key("hidden_size", 0), key("num_hidden_layers", 0), key("num_attention_heads", 1)
    inner = key("intermediate_size", 4 * hidden)
    width = key("head_dim", hidden // heads)
    return ModelSizes(
        parameters=sum(map(prod, shapes.values())),
        embedding=embedding,
        head=head,
        linear=sum(matrices),
        experts=0,  # a matrix of its own each, in most files
        largest=max(matrices, default=0),
        inputs=layers * (3 * hidden + inner),
        hessians=layers * (3 * hidden**2 + inner**2),
        cache_slot=2 * layers * key("num_key_value_heads", heads) * width,
        layers=layers,
        heads=heads,
        hidden=hidden,
        vocab=key("vocab_size", 0),
        stored_bytes=stored,
    )


def _of_empty(model: "PreTrainedModel", stored: int) -> ModelSizes:
    from torch import nn

    inputs: dict[int, Any] = {}  # by id, and kept, so that no id is used twice

    def note(_: nn.Module, given: "tuple[torch.Tensor, ...]") -> None:
        inputs[id(given[0])] = given[0]

    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            module.register_forward_pre_hook(note)
    kept = _kept(model)
    slots = [sum(prod(shape) for part, shape in layer.items() if part in CACHED) for layer in kept]
    table = model.get_input_embeddings().weight
    tables = {id(head.weight), *(id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding))}
    matrices = [weight.numel() for weight in model.parameters() if weight.ndim > 1 and id(weight) not in tables]
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    kinds = getattr(config, "layer_types", None) or [SLIDING] * len(slots)
    return ModelSizes(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        embedding=table.numel(),
        head=0 if head.weight is table else head.weight.numel(),
        linear=sum(matrices),
        experts=sum(weight.numel() for weight in model.parameters() if weight.ndim == OF_EXPERTS),
        largest=max(matrices, default=0),
        inputs=sum(value.shape[-1] for value in inputs.values()),
        hessians=sum(value.shape[-1] ** 2 for value in inputs.values()),
        cache_slot=sum(slots),
        layers=config.num_hidden_layers,
        heads=getattr(config, "num_attention_heads", 1),
        hidden=table.shape[1],
        vocab=head.weight.shape[0],
        stored_bytes=stored,
        windowed_slot=sum(slot for slot, kind in zip(slots, kinds, strict=False) if window and kind == SLIDING),
        window=window,
        states=sum(prod(shape) for layer in kept for part, shape in layer.items() if part not in CACHED),
    )


def _kept(model: "PreTrainedModel") -> list[dict[str, tuple[int, ...]]]:
    """Return the shape of each part that a layer keeps, of one token in caches."""
    from pipeline.model import decoder

    if any(parameter.ndim == OF_EXPERTS for parameter in model.parameters()):
        model.set_experts_implementation("batched_mm")  # the only one whose shapes do not follow from numbers
    try:
        return decoder.cache_shapes(model, 1)
    except UserError:
        raise
    except Exception as error:  # of any model's code, which may need numbers and not shapes alone
        what = f"the sizes of {type(model).__name__} are not known before its weights are loaded: {first_line(error)}"
        raise UserError(Problem(what, "model", "build it without a plan: check_size=false")) from error
