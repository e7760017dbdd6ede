"""Loops of a TensorRT network: layers that are computed again and again, between recurrences and a loop's outputs."""

from collections import ChainMap
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.backends.tensorrt.network import inputs, outputs
from pipeline.runtime.tensorrt_api import TensorRT

Values = MutableMapping[str, torch.Tensor]
BOUNDARY = ("ILoopOutputLayer", "IRecurrenceLayer", "ITripLimitLayer")


@dataclass
class Loop:
    """One loop. recurrences: initial value and next value are their inputs; body: the layers that depend on them, which
    the interpreter sorts."""

    name: str
    recurrences: list[Any] = field(default_factory=list)
    limits: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    body: list[Any] = field(default_factory=list)

    @property
    def boundary(self) -> list[Any]:
        """The layers that make a loop of the body."""
        return [*self.recurrences, *self.limits, *self.outputs]

    @property
    def makes(self) -> list[str]:
        """Names of the values that it gives to layers outside."""
        return [layer.get_output(0).name for layer in self.outputs]

    def reads(self, api: TensorRT) -> list[str]:
        """Names of the values that it takes from outside."""
        own = {t.name for layer in [*self.recurrences, *self.body] for t in outputs(layer)}
        read = (tensor.name for layer in [*self.boundary, *self.body] for tensor in inputs(api, layer))
        return [name for name in dict.fromkeys(read) if name not in own]

    def run(self, trt: Any, values: Values, compute: Callable[[Any, Values], None]) -> None:
        """Compute its outputs from `values` and add them. What a loop that ends early leaves unwritten is NaN."""
        counts = [int(values[layer.get_input(0).name]) for layer in self.limits if layer.kind == trt.TripLimit.COUNT]
        goes_on = [layer.get_input(0).name for layer in self.limits if layer.kind == trt.TripLimit.WHILE]
        if not counts or len(counts) + len(goes_on) != len(self.limits):
            raise NotImplementedError(f"{self.name}: a loop without a count")
        state = {layer.get_output(0).name: values[layer.get_input(0).name] for layer in self.recurrences}
        if not state.keys() >= set(goes_on):
            raise NotImplementedError(f"{self.name}: a condition that is no recurrence")
        rounds: list[list[torch.Tensor]] = [[] for _ in self.outputs]
        for _ in range(min(counts)):
            if not all(bool(state[name]) for name in goes_on):
                break
            inner: Values = ChainMap(dict(state), values)  # type: ignore[arg-type]  # ChainMap writes to the first only
            for layer in self.body:
                compute(layer, inner)
            for made, layer in zip(rounds, self.outputs, strict=True):
                made.append(inner[layer.get_input(0).name])
            state = {layer.get_output(0).name: inner[layer.get_input(1).name] for layer in self.recurrences}
        for made, layer in zip(rounds, self.outputs, strict=True):
            values[layer.get_output(0).name] = self._joined(trt, layer, made, int(values[layer.get_input(1).name]))

    def _joined(self, trt: Any, layer: Any, made: list[torch.Tensor], length: int) -> torch.Tensor:
        if layer.kind != trt.LoopOutput.CONCATENATE or not made or not made[0].is_floating_point():
            raise NotImplementedError(f"{layer.name}: {layer.kind} of {len(made)} values")
        rest = [torch.full_like(made[0], torch.nan)] * (length - len(made))
        return torch.stack([*made, *rest], layer.axis)


def find(api: TensorRT, layers: Iterable[Any]) -> list[Loop]:
    """The loops of a network."""
    layers = list(layers)
    loops: dict[str, Loop] = {}
    for layer in layers:
        if (kind := type(layer).__name__) in BOUNDARY:
            name = str(layer.loop.name)
            part = {"ILoopOutputLayer": "outputs", "IRecurrenceLayer": "recurrences", "ITripLimitLayer": "limits"}[kind]
            getattr(loops.setdefault(name, Loop(name)), part).append(layer)
    readers: dict[str, list[Any]] = {}
    for layer in layers:
        for tensor in inputs(api, layer):
            readers.setdefault(tensor.name, []).append(layer)
    for loop in loops.values():
        waiting = [layer.get_output(0).name for layer in loop.recurrences]
        seen: set[str] = set()
        while waiting:
            for layer in readers.get(waiting.pop(), []):
                if type(layer).__name__ not in BOUNDARY and layer.name not in seen:
                    seen.add(layer.name)
                    waiting += [tensor.name for tensor in outputs(layer)]
        loop.body = [layer for layer in layers if layer.name in seen]
    return list(loops.values())
