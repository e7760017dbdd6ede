"""Decide from the cache's size what a model does at its limits of position; refuse a cache that exceeds them.

transformers chooses the frequencies of longrope and dynamic rope anew in each forward, by the largest position in the
batch. A static cache keeps keys of all lengths side by side, so one choice must hold for all of them. Original and
wrapped model get the same choice. All other types of rope (default, linear, yarn, llama3, proportional) are the same
at every length.
"""

import copy
import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pipeline.core.errors import Problem, UserError

FREQUENCIES = "inv_freq"  # the end of each rotary frequency buffer's name
COPIES = ("original_inv_freq", "long_inv_freq")  # what transformers falls back to, not what a forward reads
STATIC = "default"  # the rope type that transformers never recomputes
ULP = 2.0**-23  # of fp32, relative
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "local_attention")


@dataclass(frozen=True)
class Rotary:
    """One frequency buffer of a rotary module; a module has one for each layer type that has a rope of its own."""

    name: str
    module: nn.Module
    buffer: str

    @property
    def layer_type(self) -> str | None:
        return self.buffer.removesuffix(FREQUENCIES).rstrip("_") or None

    @property
    def scaling(self) -> str:
        """The module's attribute that cos and sin are multiplied by."""
        return self.buffer.removesuffix(FREQUENCIES) + "attention_scaling"

    @property
    def frequencies(self) -> torch.Tensor:
        """[D/2]: what a forward multiplies positions by."""
        found = getattr(self.module, self.buffer)
        assert isinstance(found, torch.Tensor)
        return found

    @property
    def parameters(self) -> dict[str, Any]:
        """The rope parameters in the configuration; empty where the module has none."""
        found = getattr(getattr(self.module, "config", None), "rope_parameters", None) or {}
        return dict(found.get(self.layer_type, {}) if self.layer_type else found)

    @property
    def kind(self) -> str:
        return str(self.parameters.get("rope_type", STATIC))

    def computed(self, length: int) -> tuple[torch.Tensor, float]:
        """Frequencies and scale of cos and sin for texts of this length, by transformers' functions."""
        options = {"layer_type": self.layer_type} if self.layer_type else {}
        frequencies, scale = ROPE_INIT_FUNCTIONS[self.kind](self.module.config, seq_len=length, **options)
        return frequencies, float(scale)

    def use(self, frequencies: torch.Tensor, scale: float) -> None:
        """Use these at every position from now on."""
        self.module.register_buffer(self.buffer, frequencies.float(), persistent=False)
        setattr(self.module, self.scaling, scale)
        kinds = getattr(self.module, "rope_type", None)
        fixed = {**kinds, self.layer_type: STATIC} if isinstance(kinds, dict) else STATIC
        self.module.rope_type = fixed  # type: ignore[assignment]  # not a tensor or a module


def rotaries(model: PreTrainedModel) -> Iterator[Rotary]:
    """Every frequency buffer of the model's rotary modules."""
    for name, module in model.named_modules():
        for buffer, _ in module.named_buffers(recurse=False):
            if buffer.endswith(FREQUENCIES) and not buffer.endswith(COPIES):
                yield Rotary(name, module, buffer)


def freeze(model: PreTrainedModel, cache_size: int) -> list[str]:
    """Fix, in place, what would depend on the length of a text; returns notes for the user, none in the usual case.

    Call it after loading, on the original and on the model to be wrapped. Raises UserError for a cache longer than
    the model's positions.
    """
    notes: dict[str, None] = {}  # in order, each once
    problems: dict[Problem, None] = {}
    found = list(rotaries(model))
    for rotary in found:
        if rotary.kind == "longrope":
            notes[_freeze_longrope(rotary, cache_size)] = None
        elif "dynamic" in rotary.kind:
            limit = int(rotary.module.config.max_position_embeddings)  # type: ignore[union-attr,arg-type]
            if cache_size > limit:
                problems[_dynamic(rotary, cache_size, limit)] = None
            else:
                rotary.use(rotary.frequencies, float(getattr(rotary.module, rotary.scaling, 1.0)))
    for name, rows in _position_tables(model).items():
        if cache_size > rows:
            what = f"cache.size={cache_size} exceeds the {rows} positions in the model's table {name}"
            problems[Problem(what, "cache.size", f"choose cache.size={rows} or less")] = None
    config = model.config.get_text_config(decoder=True)
    if config.model_type == "mpt" and cache_size > config.max_seq_len:
        what = f"cache.size={cache_size} exceeds max_seq_len={config.max_seq_len}, where the model's ALiBi ends"
        problems[Problem(what, "cache.size", f"choose cache.size={config.max_seq_len} or less")] = None
    if problems:
        raise UserError(problems)
    trained = getattr(config, "max_position_embeddings", None)
    if found and isinstance(trained, int) and cache_size > trained:
        notes[
            f"cache.size={cache_size} is above the model's max_position_embeddings={trained}: "
            "it was not trained on longer texts, and its answers to them may be poor"
        ] = None
    return list(notes)


def _freeze_longrope(rotary: Rotary, cache_size: int) -> str:
    """Freeze the long or the short factors; returns the note."""
    original = int(rotary.parameters["original_max_position_embeddings"])
    is_long = cache_size > original
    frequencies, scale = rotary.computed(cache_size)
    rotary.use(frequencies, scale)
    module: Any = rotary.module
    if hasattr(module, "rope_init_fn"):  # Phimoe calls it in each forward, and scales cos and sin by length
        config = copy.copy(module.config)
        chosen = config.rope_parameters["long_mscale" if is_long else "short_mscale"]
        config.rope_parameters = {**config.rope_parameters, "long_mscale": chosen, "short_mscale": chosen}
        module.config = config
        module.rope_init_fn = lambda *_, **__: (frequencies, scale)
    if is_long:
        return (
            f"longrope: the long factors at every position, as cache.size={cache_size} is above "
            f"original_max_position_embeddings={original}; for texts of up to {original} tokens transformers uses the "
            f"short ones: choose cache.size={original} for those"
        )
    return (
        f"longrope: the short factors at every position, as cache.size={cache_size} is within "
        f"original_max_position_embeddings={original}"
    )


def _dynamic(rotary: Rotary, cache_size: int, limit: int) -> Problem:
    return Problem(
        f"cache.size={cache_size} exceeds max_position_embeddings={limit}: beyond it dynamic NTK rope changes its "
        "frequencies with the length of the text, and keys that are cached already would be wrong",
        "cache.size",
        f"choose cache.size={limit} or less",
    )


class _Lookups(TorchFunctionMode):
    """Records each embedding's weight and the indices that are looked up in it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.embedding:
            self.found.append((args[1], args[0]))
        return func(*args, **(kwargs or {}))


def _position_tables(model: PreTrainedModel) -> dict[str, int]:
    """Positions that each table of position embeddings holds, by its weight's name.

    Found by running one token twice in a row: what is looked up at neighbouring rows then is a table of positions,
    whatever the model calls it, and the first row shows its offset (2 for OPT).
    """
    tokens = model.get_input_embeddings()
    if not any(isinstance(module, nn.Embedding) and module is not tokens for module in model.modules()):
        return {}
    takes = "position_ids" in inspect.signature(model.forward).parameters
    positions = {"position_ids": torch.arange(2)[None]} if takes else {}
    with torch.inference_mode(), _Lookups() as lookups:
        model(input_ids=torch.full((1, 2), 2), use_cache=False, **positions)
    names = {id(weight): name for name, weight in model.named_parameters()}
    tables = {}
    for weight, indices in lookups.found:
        if indices.numel() == 2 and int(indices.flatten()[1] - indices.flatten()[0]) == 1:
            tables[names.get(id(weight), "positions")] = weight.shape[0] - int(indices.flatten()[0])
    return tables


def wrong_frequencies(model: PreTrainedModel, cache_size: int) -> list[Problem]:
    """Return a problem for rotary frequencies that are not fp32, or differ by over 1 ulp from the configuration."""
    problems = []
    for rotary in rotaries(model):
        found, off = rotary.frequencies, 0.0
        for want in _expected(rotary, cache_size):
            off = _off(found, want)
            if off <= ULP:
                break
        if not off <= ULP or found.dtype != torch.float32:
            kind = str(found.dtype).removeprefix("torch.")
            problems.append(
                Problem(
                    f"rotary frequencies ({kind}) are {off:.2g} (relative) off those of rope type {rotary.kind}",
                    f"module {rotary.name}, buffer {rotary.buffer}",
                    "check rope_theta and rope_parameters in config.json against the model's code",
                )
            )
    return problems


def unchecked(model: PreTrainedModel, cache_size: int) -> list[str]:
    """Return notes on the rotary modules that `wrong_frequencies` cannot check."""
    return [
        f"the rotary frequencies of {rotary.name} are not checked: no formula is known for rope type {rotary.kind}"
        for rotary in rotaries(model)
        if not _expected(rotary, cache_size)
    ]


def _off(found: torch.Tensor, want: torch.Tensor) -> float:
    """The largest relative difference; infinite between different shapes."""
    if found.shape != want.shape:
        return math.inf
    found, want = found.double(), want.double()
    return float(torch.where(found == want, 0.0, (found / want - 1).abs()).max())


def _expected(rotary: Rotary, cache_size: int) -> list[torch.Tensor]:
    """The frequencies that the configuration prescribes, in each form they may have; none where it has no base."""
    parameters, count = rotary.parameters, len(rotary.frequencies)
    base, alpha = parameters.get("rope_theta"), parameters.get("alpha")
    if base is None:
        return []
    if rotary.kind in ROPE_INIT_FUNCTIONS and not alpha:
        return [rotary.computed(cache_size)[0]]
    if rotary.kind != STATIC and not alpha:
        return []
    expected = []
    for width in (2 * count, 2 * count - 1):  # of what is rotated; an odd one has the same number of frequencies
        theta = base * alpha ** (width / (width - 2)) if alpha else base  # alpha: Hunyuan's form of dynamic rope
        expected.append(1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width))
    return expected


def limits(config: PreTrainedConfig) -> tuple[int, ...]:
    """Token counts at which a model changes what it does: windows, chunks, and where longrope changes its factors."""
    text = config.get_text_config(decoder=True)
    found = {getattr(text, name, None) for name in WINDOWS}
    rope = getattr(text, "rope_parameters", None) or {}
    for parameters in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if parameters.get("rope_type") == "longrope":
            found.add(parameters.get("original_max_position_embeddings"))
    return tuple(sorted(n for n in found if isinstance(n, int) and n > 0))
