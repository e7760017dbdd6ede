"""Compare a parsed network with the ONNX graph that it came from, before anything is built of it.

Neither the parser nor our own changes to its network are trusted: every check reads the network's layers and tensors,
and takes from the graph and the contract what they must be. `lint` returns findings as sentences that name layers. What
the layers compute is checked by pipeline.proof.tensorrt.interpreter.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pipeline.backends.tensorrt.network import Parsed, has_kernel, inputs, layers, outputs
from pipeline.core.contract import GraphContract, Tensor
from pipeline.core.errors import first_line
from pipeline.core.tables.dtypes import BY_ONNX
from pipeline.graph import onnx_file
from pipeline.graph.attention import AttentionForm

FLOAT = onnx.TensorProto.FLOAT
SCALE_TOLERANCE = 2e-3  # the parser multiplies queries and keys by its square root each, rounded to fp16
CHANGES_NOTHING = ("CAST", "SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE")
WEIGHTS = BY_ONNX.keys() - {onnx.TensorProto.INT64}  # types of weights; shapes and axes are int64
COMPUTE = ("MATRIX_MULTIPLY", "ATTENTION_INPUT", "KV_CACHE_UPDATE")


def lint(parsed: Parsed, contract: GraphContract) -> list[str]:
    """All findings about a network; none when it equals its graph."""
    view = _View(parsed, contract)
    checks: tuple[Callable[[_View], Iterator[str]], ...] = (
        _interface, _used, _attentions, _caches, _types, _values, _weights,
    )  # fmt: skip
    found: list[str] = []
    for check in checks:
        try:
            found.extend(check(view))  # findings before a failure stay
        except RuntimeError as error:  # in a network with a contradiction not even shapes can be read
            said = parsed.api.log.errors
            found.append(f"{parsed.api.product} finds a contradiction: {said[-1] if said else error}")
    return list(dict.fromkeys(found))


class _View:
    """A network's layers, indexed."""

    def __init__(self, parsed: Parsed, contract: GraphContract) -> None:
        self.parsed = parsed
        self.api = parsed.api
        self.contract = contract
        self.graph = parsed.proto.graph
        self.layers = list(layers(parsed.api, parsed.network))
        self.producers = {tensor.name: layer for layer in self.layers for tensor in outputs(layer)}
        self.inputs = [parsed.network.get_input(i) for i in range(parsed.network.num_inputs)]
        self.outputs = [parsed.network.get_output(i) for i in range(parsed.network.num_outputs)]
        self.onnx_names = {name for node in self.graph.node for name in node.output}

    def tensor(self, raw: Any) -> Tensor:
        """A tensor of the network as the contract describes tensors; only those of inputs have names of axes."""
        names = [raw.get_dimension_name(i) for i in range(len(raw.shape))]
        shape = tuple(name or "?" if size == -1 else size for size, name in zip(raw.shape, names, strict=True))
        return Tensor(raw.name, self.api.numpy_type(raw.dtype), shape)

    def origin(self, raw: Any) -> str:
        """The name of the tensor behind casts and views."""
        layer = self.producers.get(raw.name)
        while layer is not None and layer.type.name in CHANGES_NOTHING:
            raw = layer.get_input(0)
            layer = self.producers.get(raw.name)
        return str(raw.name)

    def scaled(self, raw: Any) -> tuple[str, float]:
        """The name of the tensor behind multiplications by constants, and the product of the constants."""
        factor = 1.0
        layer = self.producers.get(raw.name)
        while layer is not None and layer.type.name == "ELEMENTWISE" and str(raw.name) not in self.onnx_names:
            numbers = [self.number(layer.get_input(i)) for i in (0, 1)]
            if layer.op != self.api.trt.ElementWiseOperation.PROD or (numbers[0] is None) == (numbers[1] is None):
                break
            factor *= next(number for number in numbers if number is not None)
            raw = layer.get_input(1 if numbers[1] is None else 0)
            layer = self.producers.get(raw.name)
        return str(raw.name), factor

    def number(self, raw: Any) -> float | None:
        """A constant of one element, through casts and reshapes; None for any other tensor."""
        layer = self.producers.get(self.origin(raw))
        if layer is None or layer.type.name != "CONSTANT" or int(np.prod(tuple(layer.shape))) != 1:
            return None
        weights = layer.weights
        array = weights.numpy() if hasattr(weights, "numpy") else np.asarray(weights)
        return float(array.reshape(-1)[0])


def _interface(view: _View) -> Iterator[str]:
    """Inputs and outputs have the contract's names, types and axes; nothing is frozen."""
    given = {"input": view.inputs, "output": view.outputs}
    for side, wanted in (("input", view.contract.inputs), ("output", view.contract.outputs)):
        found = {raw.name: raw for raw in given[side]}
        for want in wanted:
            if want.name not in found:
                yield f"{side} {want.name} is missing"
                continue
            has = view.tensor(found.pop(want.name))
            if has.dtype != want.dtype:
                yield f"{side} {want.name} is {has.dtype}, declared is {want.dtype}"
            if not _same_shape(has.shape, want.shape):
                yield f"{side} {want.name} is {_dims(has.shape)}, declared is {_dims(want.shape)}"
        yield from (f"{side} {name} is not in the contract" for name in found)


def _used(view: _View) -> Iterator[str]:
    """Every input that the model reads reaches an output: TensorRT drops an unused one from the engine."""
    needed = set(view.contract.unused)
    waiting = [raw.name for raw in view.outputs]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        layer = view.producers.get(name)
        if layer is not None:
            waiting += [raw.name for raw in inputs(view.api, layer)]
    yield from (f"input {raw.name} is not used" for raw in view.inputs if raw.name not in needed)


def _attentions(view: _View) -> Iterator[str]:
    """Each Attention of the graph is an attention of the network: causal to the lower right with the same lengths, or
    with the same mask; of the same queries, keys and values; scaled once; computed by a kernel or decomposed."""
    found = dict(view.parsed.attentions)
    none = getattr(getattr(view.api.trt, "CausalMaskKind", None), "NONE", None)
    for node in view.graph.node:
        if node.op_type != "Attention":
            continue
        attention = found.pop(node.name, None)
        if attention is None:
            yield f"{node.name} is not an attention of the network"
            continue
        form = AttentionForm.of_proto(node)
        kind, has = getattr(attention, "causal_kind", none), getattr(attention, "key_value_lengths", None)
        if form.lengths:
            if kind != view.api.trt.CausalMaskKind.LOWER_RIGHT:
                yield f"{node.name} is causal to {getattr(kind, 'name', kind)}, not to LOWER_RIGHT"
            if has is None:
                yield f"{node.name} has no lengths of keys and values"
            elif view.origin(has) != form.lengths:
                yield f"{node.name} has the lengths {view.origin(has)}, in the graph they are {form.lengths}"
        else:
            if attention.causal or kind != none:
                yield f"{node.name} is causal, in the graph it has a mask alone"
            if attention.mask is None:
                yield f"{node.name} has no mask, in the graph it is {form.mask}"
            elif view.origin(attention.mask) != form.mask:
                yield f"{node.name} has the mask {view.origin(attention.mask)}, in the graph it is {form.mask}"
        names, factors = zip(*(view.scaled(attention.get_input(i)) for i in range(3)), strict=True)
        if list(names) != list(node.input[:3]):
            yield f"{node.name} attends over {', '.join(names)}, in the graph over {', '.join(node.input[:3])}"
        wanted = form.scale(attention.get_input(0).shape[3])
        if abs(factors[0] * factors[1] - wanted) > SCALE_TOLERANCE * wanted or factors[2] != 1:
            yield f"{node.name} scales its scores by {factors[0] * factors[1]:.6g}, in the graph by {wanted:.6g}"
        if not has_kernel(view.api, attention) and not attention.decomposable:
            query = attention.get_input(0)
            what = f"{view.api.numpy_type(query.dtype)} and head size {query.shape[3]}"
            yield f"{node.name} has no kernel for {what} and may not be decomposed"
    yield from (f"attention {name} is not in the graph" for name in found)


def _caches(view: _View) -> Iterator[str]:
    """Each cache is written once, by an update of its own input that is its output and starts at cache_position."""
    written: dict[str, list[str]] = {}
    updates = {layer.name: layer for layer in view.layers if layer.type.name == "KV_CACHE_UPDATE"}
    for layer in updates.values():
        cache, out = layer.get_input(0), layer.get_output(0)
        written.setdefault(out.name, []).append(layer.name)
        want = view.contract.aliases.get(out.name)
        if want is None:
            yield f"{layer.name} writes {out.name}, which is not a cache of the contract"
        elif cache.name != want or not cache.is_network_input:
            yield f"{layer.name} writes {out.name} into {cache.name}, not into the input {want}"
        elif not out.is_network_output:
            yield f"{layer.name}: {out.name} is not an output of the network"
        start = view.origin(layer.get_input(2))
        if start != "cache_position":
            yield f"{layer.name} writes from {start}, not from cache_position"
        if layer.cache_mode != view.api.trt.KVCacheMode.LINEAR:
            yield f"{layer.name} writes {layer.cache_mode.name}, not LINEAR"
    for name, past in view.contract.aliases.items():
        if past not in view.contract.rules and len(written.get(name, [])) != 1:
            yield f"{name} is written by {', '.join(written.get(name, [])) or 'no cache update'}: it must be one"


def _types(view: _View) -> Iterator[str]:
    """Products with weights, attention and cache compute in the declared type."""
    want, wide = view.contract.compute, _wide(view.graph)
    for layer in view.layers:
        if layer.type.name not in COMPUTE:
            continue
        given = inputs(view.api, layer)[:2]
        if layer.type.name == "MATRIX_MULTIPLY" and not any(_is_weight(view, raw) for raw in given):
            continue  # such as products of angles and positions, which stay in fp32
        has = {view.api.numpy_type(raw.dtype) for raw in given}
        wanted = "float32" if layer.name in wide else want
        if has != {wanted}:
            yield f"{layer.name} computes in {' and '.join(sorted(has))}, declared is {wanted}"


def _wide(graph: onnx.GraphProto) -> set[str]:
    """Names of the products that the graph means in fp32, such as a router's: it casts what they read, and goes on with
    the result as it is."""
    casts = [node for node in graph.node if node.op_type == "Cast"]
    raised = {node.output[0] for node in casts if any(a.name == "to" and a.i == FLOAT for a in node.attribute)}
    read = {name for node in graph.node if node.op_type != "Cast" for name in node.input}
    products = (node for node in graph.node if node.op_type in ("Gemm", "MatMul"))
    return {node.name for node in products if node.input[0] in raised and node.output[0] in read}


def _is_weight(view: _View, raw: Any) -> bool:
    layer = view.producers.get(view.origin(raw))
    if layer is not None and layer.type.name == "GATHER":  # one expert's, of a stack
        layer = view.producers.get(view.origin(layer.get_input(0)))
    if layer is not None and layer.type.name == "DEQUANTIZE":
        layer = view.producers.get(view.origin(layer.get_input(0)))
    return layer is not None and layer.type.name == "CONSTANT" and len(layer.shape) in (2, 3)


def _values(view: _View) -> Iterator[str]:
    """Every tensor that has a name in the graph has the same type and shape: symbolic axes stay symbolic."""
    try:
        inferred = onnx.shape_inference.infer_shapes(view.parsed.proto)
    except onnx.shape_inference.InferenceError as error:
        yield f"the graph contradicts itself: {first_line(error)}"
        return
    known = {value.name: value for value in inferred.graph.value_info}
    for name in view.producers.keys() & known.keys():
        kind = known[name].type.tensor_type
        layer = view.producers[name]
        raw = next(tensor for tensor in outputs(layer) if tensor.name == name)
        has = view.tensor(raw)
        known_type = BY_ONNX.get(kind.elem_type)
        if known_type is not None and has.dtype != known_type.name:
            yield f"{layer.name}: {name} is {has.dtype}, in the graph {known_type.name}"
        if not kind.HasField("shape"):
            continue
        want = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim)
        if len(want) == len(has.shape) and any(_frozen(h, w) for h, w in zip(has.shape, want, strict=True)):
            yield f"{layer.name}: {name} is {_dims(has.shape)}, in the graph {_dims(want)}"


def _frozen(has: int | str, want: int | str) -> bool:
    """Whether a symbolic axis has become a number, or a number has changed."""
    if isinstance(want, str):
        return isinstance(has, int) and want in ("batch", "sequence")
    return isinstance(has, int) and has != want


def _weights(view: _View) -> Iterator[str]:
    """Every weight that the graph's nodes read is a constant of the network, or a convolution's own, of the same size
    and type."""
    found = {layer.name: layer for layer in view.layers if layer.type.name == "CONSTANT"}
    convolved = dict(_convolved(view))
    read = onnx_file.names_read(view.graph)
    missing = total = 0
    for weight in view.graph.initializer:
        if weight.name not in read or weight.data_type not in WEIGHTS or not weight.dims:
            continue
        count = int(np.prod(weight.dims))
        total += count
        layer, wanted = found.get(weight.name), BY_ONNX[weight.data_type].name
        if weight.name in convolved:
            numbers = convolved[weight.name]
            missing += count - numbers.size
            if (numbers.size, str(numbers.dtype)) != (count, wanted):
                what = f"{numbers.size} numbers of {numbers.dtype}, in the graph {count} of {wanted}"
                yield f"the convolution with {weight.name} holds {what}"
            continue
        if layer is None:
            missing += count
            yield f"weight {weight.name} of {count} numbers is not in the network"
            continue
        has = int(np.prod(tuple(layer.shape)))
        if has != count:
            missing += count - has
            yield f"{layer.name} holds {has} numbers, in the graph {count}"
        kind = view.api.numpy_type(layer.get_output(0).dtype)
        if kind != wanted:
            yield f"{layer.name} is {kind}, in the graph {wanted}"
    if missing:
        yield f"the network holds {total - missing} weights, the graph {total}"


def _convolved(view: _View) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The name of each weight and bias of a convolution in the graph, and the numbers that the layer holds."""
    made = {layer.name: layer for layer in view.layers if layer.type.name == "CONVOLUTION"}
    for node in view.graph.node:
        layer = made.get(node.name)
        if node.op_type == "Conv" and layer is not None:
            yield from zip(node.input[1:], (layer.kernel, layer.bias), strict=False)


def _same_shape(has: tuple[int | str, ...], want: tuple[int | str, ...]) -> bool:
    """Whether numbers are equal and symbolic axes symbolic; outputs have lost the names of their axes."""
    return len(has) == len(want) and all(
        h in (w, "?") if isinstance(w, str) else h == w for h, w in zip(has, want, strict=True)
    )


def _dims(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
