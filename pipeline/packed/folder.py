"""The tensors of a quantized checkpoint's folder, with each layer's weight unpacked."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from pipeline.core.errors import Problem, UserError
from pipeline.core.files import read_json
from pipeline.packed import layouts
from pipeline.packed.integers import Packed
from pipeline.packed.layouts import Tensors
from pipeline.packed.methods import groups_of, quantization
from pipeline.packed.source import CONFIG

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TILE = (128, 128)  # of small floats, where the configuration does not say
UNREAD = tuple(f".{part}_{end}" for part in "qkv" for end in ("scale", "zero_point"))  # how a cache would be rounded


@dataclass(frozen=True)
class Method:
    """How a method's checkpoints are read.

    suffixes: ends of the names of a layer's tensors; what comes before is the layer. marks: a layer with any of these
    is quantized. unpack: its weight, integers or fp32. target: the end of the weight's name in the model.
    """

    marks: tuple[str, ...]
    suffixes: tuple[str, ...]
    unpack: Callable[[Tensors, Mapping[str, Any]], Packed | Tensor]
    target: str = ".weight"


def _gptq(layer: Tensors, config: Mapping[str, Any]) -> Packed:
    older = config.get("checkpoint_format", "gptq") == "gptq"
    return layouts.gptq(layouts.with_zeros_of_gptq_1(layer) if older else layer)


def _awq(layer: Tensors, _: Mapping[str, Any]) -> Packed:
    return layouts.awq(layer)


def _fp8(layer: Tensors, config: Mapping[str, Any]) -> Tensor:
    rows, columns = config.get("weight_block_size") or TILE
    return layouts.floats(layer["weight"], layer["weight_scale_inv"], (int(rows), int(columns)))


def _compressed(layer: Tensors, config: Mapping[str, Any]) -> Packed | Tensor:
    if "weight_packed" not in layer and layer["weight"].is_floating_point():
        sizes = (group["weights"].get("block_structure") for group in groups_of(config))
        rows, columns = next((size for size in sizes if size), TILE)
        return layouts.floats(layer["weight"], layer["weight_scale"], (int(rows), int(columns)))
    return layouts.compressed(layer)


def _mxfp4(layer: Tensors, _: Mapping[str, Any]) -> Tensor:
    return layouts.mxfp4(layer["blocks"], layer["scales"])


METHODS: Mapping[str, Method] = {
    "gptq": Method(("qweight",), (".qweight", ".qzeros", ".scales", ".g_idx"), _gptq),
    "awq": Method(("qweight",), (".qweight", ".qzeros", ".scales"), _awq),
    "fp8": Method(("weight_scale_inv",), (".weight", ".weight_scale_inv", ".activation_scale", ".input_scale"), _fp8),
    "compressed-tensors": Method(
        ("weight_scale",),
        (
            *(".weight", ".weight_packed", ".weight_shape", ".weight_scale", ".weight_zero_point", ".weight_g_idx"),
            *(".input_scale", ".input_zero_point", ".output_scale"),
        ),
        _compressed,
    ),
    "mxfp4": Method(("blocks",), ("_blocks", "_scales"), _mxfp4, target=""),
}


class PackedFolder:
    """A folder whose weights are quantized by one of METHODS."""

    def __init__(self, folder: Path) -> None:
        self._config = quantization(read_json(folder / CONFIG))
        self.method = str(self._config["quant_method"])
        self._method = METHODS[self.method]
        self.folder = folder

    @cached_property
    def _files(self) -> dict[str, Any]:
        """Name of each tensor -> the open file that has it; weights are mapped into memory, not read."""
        one = self.folder / WEIGHTS
        names = [WEIGHTS] if one.exists() else sorted(set(read_json(self.folder / INDEX)["weight_map"].values()))
        opened: list[Any] = [safe_open(self.folder / name, framework="pt") for name in names]
        return {name: file for file in opened for name in file.keys()}  # noqa: SIM118  # it cannot be iterated

    @cached_property
    def layers(self) -> dict[str, dict[str, str]]:
        """Name of each quantized weight in the model -> the end of each of its tensors' names, and the name."""
        found: dict[str, dict[str, str]] = {}
        for name in self._files:
            with contextlib.suppress(StopIteration):
                suffix = next(suffix for suffix in self._method.suffixes if name.endswith(suffix))
                found.setdefault(name.removesuffix(suffix), {})[suffix[1:]] = name
        return {
            f"{layer}{self._method.target}": parts
            for layer, parts in found.items()
            if not parts.keys().isdisjoint(self._method.marks)
        }

    def unpacked(self, name: str) -> Packed | Tensor:
        """A weight by its name in `layers`: integers, or fp32.

        Raises UserError where a tensor of it is missing, or does not fit the others.
        """
        layer = {key: self._files[tensor].get_tensor(tensor) for key, tensor in self.layers[name].items()}
        fix = "download it again, or correct quantization_config in config.json"
        try:
            return self._method.unpack(layer, self._config)
        except KeyError as error:
            what = f"{name} is quantized by {self.method}, and its tensor {error.args[0]} is missing"
            raise UserError(Problem(what, str(self.folder), fix)) from error
        except (ValueError, IndexError, RuntimeError) as error:
            shapes = ", ".join(f"{key} {list(tensor.shape)}" for key, tensor in sorted(layer.items()))
            what = f"the tensors of {name} do not fit together as {self.method}: {shapes}"
            raise UserError(Problem(what, str(self.folder), fix)) from error

    def tensors(self, transposed: Set[str] = frozenset()) -> Iterator[tuple[str, Tensor]]:
        """All tensors of the model by name, the quantized ones in fp32. transposed: last names of the layers whose
        weights the model has as [K, N]."""
        used = {tensor for parts in self.layers.values() for tensor in parts.values()}
        for name in self.layers:
            weight = self.unpacked(name)
            values = torch.from_numpy(weight.values()) if isinstance(weight, Packed) else weight
            yield name, values.T.contiguous() if name.split(".")[-2:][0] in transposed else values
        for name, file in self._files.items():
            if name not in used and not name.endswith(UNREAD):
                yield name, file.get_tensor(name)
