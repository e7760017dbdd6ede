"""Run a TensorRT network without TensorRT's kernels: layer by layer in PyTorch on the CPU, for proof, not for speed.

    runtime = Interpreter(parse(api, folder), contract, profiles)   # a Runtime like any other
    runtime.session(batch=2).step([[1, 2, 3], [4]])

It computes the network as it was parsed and then repaired by backends.tensorrt.network, so a wrong token shows on a
machine without a GPU. Floats are computed in fp32, and each layer's result is rounded to the type that the network
declares for it, as kernels that accumulate in fp32 do. Only a GPU can show what the builder then makes of the network.
"""

from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from pipeline.backends.tensorrt.network import Parsed, layers, operands, outputs, parse
from pipeline.core import layout
from pipeline.core.arrays import Array
from pipeline.core.contract import LOGITS, GraphContract
from pipeline.core.profiles import Profiles
from pipeline.proof.tensorrt.layers import LAYERS, Value, rounded
from pipeline.proof.tensorrt.loops import BOUNDARIES, OUTPUT, Loop
from pipeline.runtime import engine_info, tensorrt_api
from pipeline.runtime.session import Runtime, Session

Values = dict[str, Value]
CONSTANT = "IConstantLayer"


class Interpreter(Runtime):
    """A parsed network as a runtime. Raises NotImplementedError for an unknown kind of layer."""

    def __init__(self, parsed: Parsed, contract: GraphContract, profiles: Profiles) -> None:
        self.contract = contract
        self.profiles = profiles
        self._parsed = parsed
        found = {layer.name: layer for layer in layers(parsed.api, parsed.network)}
        if len(found) != parsed.network.num_layers:
            raise NotImplementedError("two layers have one name")
        known = {CONSTANT, *BOUNDARIES, *LAYERS}
        unknown = {kind for layer in found.values() if (kind := type(layer).__name__) not in known}
        if unknown:
            raise NotImplementedError(f"no interpretation of {', '.join(sorted(unknown))}")
        self._constants: Values = {}
        self._layers: list[Any] = []
        for layer in self._ordered(self._with_loops(list(found.values()))):
            if not isinstance(layer, Loop) and self._constants.keys() >= set(self._reads(layer)):
                self._compute(layer, self._constants)
            else:
                self._layers.append(layer)
        self._wanted = [LOGITS, *contract.aliases]
        last = {name: i for i, layer in enumerate(self._layers) for name in self._reads(layer)}
        self._done: list[list[str]] = [[] for _ in self._layers]  # values that no later layer reads
        for name in last.keys() - set(self._wanted):
            self._done[last[name]].append(name)

    def session(self, batch: int) -> "InterpretedSession":
        return InterpretedSession(self, batch)

    def run(self, feeds: Values) -> Values:
        """All outputs, by name."""
        values = self._constants | feeds
        for each, done in zip(self._layers, self._done, strict=True):
            if isinstance(each, Loop):
                each.run(values, self._compute)
            else:
                self._compute(each, values)
            for name in done:
                del values[name]
        return {name: values[name] for name in self._wanted}

    def _with_loops(self, found: list[Any]) -> list[Any]:
        """The layers, with each loop as one in place of its own: those at its boundary, and all between what its
        iterators and recurrences give and what its outputs take."""
        boundaries: dict[str, list[Any]] = {}
        for layer in found:
            if type(layer).__name__ in BOUNDARIES:
                boundaries.setdefault(layer.loop.name, []).append(layer)
        plain = [layer for layer in found if type(layer).__name__ not in BOUNDARIES]
        loops = []
        for boundary in boundaries.values():
            inside = {t.name for layer in boundary if type(layer).__name__ != OUTPUT for t in outputs(layer)}
            body: list[Any] = []
            for layer in self._ordered(plain):
                if inside & set(self._reads(layer)):
                    body.append(layer)
                    inside |= {tensor.name for tensor in outputs(layer)}
            plain = [layer for layer in plain if layer not in body]
            loops.append(Loop(self._parsed.api.trt, boundary, body))
        return [*plain, *loops]

    def _ordered(self, found: list[Any]) -> list[Any]:
        """Layers in an order in which each comes after those that make what it reads."""
        makers = {name: number for number, layer in enumerate(found) for name in self._writes(layer)}
        before = {
            number: {makers[name] for name in self._reads(layer) if name in makers}
            for number, layer in enumerate(found)
        }
        return [found[number] for number in TopologicalSorter(before).static_order()]

    @torch.inference_mode()
    def _compute(self, layer: Any, values: Values) -> None:
        api, kind = self._parsed.api, type(layer).__name__
        given = [None if tensor is None else values[tensor.name] for tensor in operands(api, layer)]
        result = self._constant(layer) if kind == CONSTANT else LAYERS[kind](api.trt, layer, *given)
        results = result if isinstance(result, tuple) else (result,)
        for out, value in zip(outputs(layer), results, strict=True):
            values[out.name] = rounded(value, api.numpy_type(out.dtype))

    def _constant(self, layer: Any) -> Value:
        numbers = layer.weights
        if not isinstance(numbers, np.ndarray):  # Python cannot see bytes of bf16 or fewer bits: take the graph's
            parsed = self._parsed
            weight = next(weight for weight in parsed.proto.graph.initializer if weight.name == layer.name)
            numbers = onnx.numpy_helper.to_array(weight, str(parsed.folder))
            numbers = numbers.astype(np.int8 if "int" in str(numbers.dtype) else np.float32)
        return torch.from_numpy(numbers.copy()).reshape(tuple(layer.shape))

    def _writes(self, each: Any) -> list[str]:
        """The names of what a layer or a loop makes."""
        return each.writes if isinstance(each, Loop) else [tensor.name for tensor in outputs(each)]

    def _reads(self, each: Any) -> list[str]:
        """The names of what a layer or a loop takes from others."""
        if isinstance(each, Loop):
            made = {name for inner in each.body for name in self._writes(inner)}
            made |= {now for _, _, now in (*each.iterators, *each.states)}
            return [*each.reads, *(name for inner in each.body for name in self._reads(inner) if name not in made)]
        return [tensor.name for tensor in operands(self._parsed.api, each) if tensor is not None]


class InterpretedSession(Session):
    """See Session."""

    def __init__(self, runtime: Interpreter, batch: int) -> None:
        super().__init__(runtime.contract, runtime.profiles, batch)
        self._runtime = runtime

    def _run(self, feeds: dict[str, Array]) -> Array:
        tensors, arrays = (*self.contract.caches, *self.contract.states), (*self.caches, *self.states)
        caches = {tensor.name: cache for tensor, cache in zip(tensors, arrays, strict=True)}
        given = {name: torch.from_numpy(value) for name, value in feeds.items()}
        given |= {name: torch.from_numpy(cache.astype("float32")) for name, cache in caches.items()}
        found = self._runtime.run(given)
        for present, name in self.contract.aliases.items():
            caches[name][...] = found[present].numpy()
        result: Array = found[LOGITS].numpy()
        return result


def open_network(point: Path, contract: GraphContract) -> Interpreter:
    """Parse again the network that a point's plan was built from. Raises UserError as `parse` does."""
    info = engine_info.read(point / layout.ENGINE)
    parsed = parse(tensorrt_api.load(info.kind), layout.final_model(point))
    return Interpreter(parsed, contract, info.profiles)
