"""ONNX -> TensorRT's network, with attention as the graph means it.

    parsed = parse(tensorrt_api.load(kind), folder)   # folder/model.onnx, its weights beside it
    parsed.network, parsed.proto                      # the network, and the ONNX that it must equal
    parsed.attentions["model.layers.0.self_attn.Attention"]  # IAttention by the name of its ONNX node
    layers(parsed.network)                            # all layers, each as its own class

The parser drops Attention's lengths and aligns its causal mask to the upper left: such an engine builds and computes
wrong tokens. Where TensorRT's attention takes lengths they are set after parsing (`restore_attention_lengths`),
elsewhere a mask replaces them before (pipeline.backends.tensorrt.prepare). pipeline.backends.tensorrt.lint checks the
result.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from pipeline.backends.tensorrt.prepare import prepare
from pipeline.core import layout
from pipeline.core.errors import Problem, UserError
from pipeline.graph import onnx_file
from pipeline.graph.attention import LENGTHS
from pipeline.runtime.tensorrt_api import TensorRT

FUSED_HEAD = 256  # largest head size with a kernel
SUGGESTIONS = {
    "Attention": "softcaps and odd head sizes are decomposed, other options refused: report this model",
    "DequantizeLinear": "quantize with block_size 0, 16, 32, 64 or 128, or precision=fp16",
    "Einsum": "no repeated or dropped index, float operands",
}


@dataclass
class Parsed:
    """A network, what it was parsed from, and what keeps it alive."""

    api: TensorRT
    builder: Any
    network: Any
    proto: onnx.ModelProto  # as parsed: without weights of 64 KiB and more, which stay in their file
    folder: Path
    attentions: dict[str, Any]  # name of the ONNX node -> IAttention

    @property
    def form(self) -> str:
        """How attention knows what it may see: "lengths", or "mask" where it has no place for them."""
        return "lengths" if self.api.lengths else "mask"


def parse(api: TensorRT, folder: Path, *, restore: bool = True) -> Parsed:
    """Parse `folder`/model.onnx; `restore=False` leaves the network as the parser made it, for tests.

    Raises UserError with a problem for each node that TensorRT does not accept, or whose meaning it would change.
    """
    model = onnx_file.load(folder)
    prepare(model, lengths=api.lengths)
    proto = ir.to_proto(model)
    builder = api.builder()
    network = api.network(builder)
    parser = api.trt.OnnxParser(network, api.logger)
    data = proto.SerializeToString()
    path = str(folder / layout.MODEL)
    if not parser.parse(data, path):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise UserError(_unsupported(api, proto, errors, data, path))
    del parser  # before the network, and before anything else is parsed: the other order crashes
    parsed = Parsed(api, builder, network, proto, folder, attentions(api, network))
    if restore:
        restore_attention_lengths(parsed)
    return parsed


def restore_attention_lengths(parsed: Parsed) -> None:
    """Give each attention the lengths that the parser dropped, and its operands without the parser's factors of 1,
    which would copy the whole cache of keys in every step. Attentions without a kernel may be decomposed."""
    api, network = parsed.api, parsed.network
    made = {tensor.name: tensor for layer in layers(api, network) for tensor in outputs(layer)}
    made |= {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    narrow: dict[str, Any] = {}
    for node in parsed.proto.graph.node:
        attention = parsed.attentions.get(node.name)
        if node.op_type != "Attention" or attention is None:
            continue
        for i in (0, 1):
            if node.input[i] in made:
                attention.set_input(i, made[node.input[i]])
        name = node.input[LENGTHS] if len(node.input) > LENGTHS else ""
        if name in made:  # if it is missing the lint reports it
            if name not in narrow:
                cast = network.add_cast(made[name], api.trt.int32)
                cast.name = f"{name}.int32"
                narrow[name] = cast.get_output(0)
            attention.causal_kind = api.trt.CausalMaskKind.LOWER_RIGHT
            attention.key_value_lengths = narrow[name]
        attention.decomposable = not has_kernel(api, attention)


def has_kernel(api: TensorRT, attention: Any) -> bool:
    """Whether a fused kernel computes it: 16 bits and a head size of at most 256. `prepare` has decomposed attentions
    whose head size is not a multiple of 8."""
    query, values = attention.get_input(0), attention.get_input(2)
    if query.dtype not in (api.trt.float16, api.trt.bfloat16):
        return False
    return bool(max(query.shape[3], values.shape[3]) <= FUSED_HEAD)


def layers(api: TensorRT, network: Any) -> Iterator[Any]:
    """All layers, each as an object of its own class: the bindings return plain ILayers."""
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        own = getattr(api.trt, CLASSES.get(layer.type.name, _class_name(layer.type.name)), None)
        if own is not None:
            layer.__class__ = own
        yield layer


CLASSES = {
    "ELEMENTWISE": "IElementWiseLayer",
    "KV_CACHE_UPDATE": "IKVCacheUpdateLayer",
    "PARAMETRIC_RELU": "IParametricReLULayer",
    "SOFTMAX": "ISoftMaxLayer",
    "TOPK": "ITopKLayer",
}


def _class_name(kind: str) -> str:
    return "I" + "".join(word.capitalize() for word in kind.split("_")) + "Layer"


def outputs(layer: Any) -> list[Any]:
    """A layer's output tensors."""
    return [layer.get_output(i) for i in range(layer.num_outputs)]


def operands(api: TensorRT, layer: Any) -> list[Any | None]:
    """A layer's inputs by position, None for an omitted one; for an attention its queries, keys, values, mask and
    lengths."""
    if layer.type == api.trt.LayerType.ATTENTION_INPUT:
        attention = layer.attention
        extra = [getattr(attention, name, None) for name in ("mask", "key_value_lengths")]
        return [attention.get_input(i) for i in range(3)] + extra
    return [layer.get_input(i) for i in range(layer.num_inputs)]


def inputs(api: TensorRT, layer: Any) -> list[Any]:
    """A layer's inputs without the omitted ones."""
    return [tensor for tensor in operands(api, layer) if tensor is not None]


def attentions(api: TensorRT, network: Any) -> dict[str, Any]:
    """Every attention, by the name of its ONNX node."""
    kind = api.trt.LayerType.ATTENTION_INPUT
    return {layer.attention.name: layer.attention for layer in layers(api, network) if layer.type == kind}


def _unsupported(api: TensorRT, proto: onnx.ModelProto, errors: list[Any], data: bytes, path: str) -> list[Problem]:
    """A problem for each node that the parser refuses or whose operator it does not know."""
    builder = api.builder()
    network = api.network(builder)
    parser = api.trt.OnnxParser(network, api.logger)
    unknown = {op for op in {node.op_type for node in proto.graph.node} if not parser.supports_operator(op)}
    found = {node.name: f"TensorRT has no {node.op_type}" for node in proto.graph.node if node.op_type in unknown}
    kinds = {node.name: node.op_type for node in proto.graph.node}
    parser.supports_model_v2(data, path)
    errors = [*errors, *(parser.get_error(i) for i in range(parser.num_errors))]
    for error in errors:
        found.setdefault(error.node_name(), f"{api.product} does not accept it: {' '.join(error.desc().split())}")
    del parser
    return [
        Problem(
            f"{name or 'the graph'} ({kinds.get(name, 'ONNX')}): {why}",
            _module(name),
            _suggestion(kinds.get(name, "")),
        )
        for name, why in found.items()
    ]


def _module(name: str) -> str:
    return f"module {name.rpartition('.')[0] or 'decoder'}"


def _suggestion(op: str) -> str:
    return SUGGESTIONS.get(op, "engine=onnxruntime_cpu runs every model that verifies")
