"""A loop of a TensorRT network as one step of its interpretation: a recurrence over the tokens of a sequence."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pipeline.proof.tensorrt.layers import Value

Values = dict[str, Value]
LIMIT, ITERATOR, RECURRENCE, OUTPUT = "ITripLimitLayer", "IIteratorLayer", "IRecurrenceLayer", "ILoopOutputLayer"
BOUNDARIES = {LIMIT, ITERATOR, RECURRENCE, OUTPUT}


class Loop:
    """One loop: the layers at its boundary, and those of its body.

    body: in an order in which each is computed after what it reads. Raises NotImplementedError for a loop that does not
    run a number of times that is known before, or that gives anything but last values and values joined forwards.
    """

    def __init__(self, trt: Any, boundary: Sequence[Any], body: Sequence[Any]) -> None:
        of_kind = {kind: [layer for layer in boundary if type(layer).__name__ == kind] for kind in BOUNDARIES}
        (limit,) = of_kind[LIMIT]
        if limit.kind != trt.TripLimit.COUNT or any(iterator.reverse for iterator in of_kind[ITERATOR]):
            raise NotImplementedError("a loop that is not over all elements in their order")
        self.trips = _input(limit, 0)
        self.iterators = [(_input(iterator, 0), iterator.axis, _output(iterator)) for iterator in of_kind[ITERATOR]]
        self.states = [(_input(layer, 0), _input(layer, 1), _output(layer)) for layer in of_kind[RECURRENCE]]
        self.last, self.joined = [], []
        for result in of_kind[OUTPUT]:
            if result.kind == trt.LoopOutput.LAST_VALUE:
                self.last.append((_input(result, 0), _output(result)))
            elif result.kind == trt.LoopOutput.CONCATENATE:
                self.joined.append((_input(result, 0), result.axis, _output(result)))
            else:
                raise NotImplementedError(f"a loop output of kind {result.kind}")
        self.body = list(body)

    @property
    def reads(self) -> list[str]:
        """The names of the values from outside that the boundary reads."""
        outside = [self.trips, *(name for name, _, _ in self.iterators), *(start for start, _, _ in self.states)]
        return list(dict.fromkeys(outside))

    @property
    def writes(self) -> list[str]:
        """The names of its results."""
        return [*(out for _, out in self.last), *(out for _, _, out in self.joined)]

    def run(self, values: Values, compute: Callable[[Any, Values], None]) -> None:
        """Put the results into `values`; compute: runs a layer of the body on them."""
        inside = dict(values)
        for start, _, now in self.states:
            inside[now] = values[start]
        pieces: list[list[Value]] = [[] for _ in self.joined]
        for trip in range(int(values[self.trips])):
            for name, axis, now in self.iterators:
                inside[now] = values[name].select(axis, trip)
            for layer in self.body:
                compute(layer, inside)
            for piece, (name, _, _) in zip(pieces, self.joined, strict=True):
                piece.append(inside[name])
            inside |= {now: inside[after] for _, after, now in self.states}
        values |= {out: inside[name] for name, out in self.last}
        values |= {out: torch.stack(p, axis) for p, (_, axis, out) in zip(pieces, self.joined, strict=True)}


def _input(layer: Any, index: int) -> str:
    """The name of one of a layer's inputs."""
    return str(layer.get_input(index).name)


def _output(layer: Any) -> str:
    """The name of a layer's output."""
    return str(layer.get_output(0).name)
