"""What a text makes of a model's values: Hessians for GPTQ, H = X^T X of each linear layer's inputs, and how large keys
and values are.

The simplified graph itself reads the text in ONNX Runtime, with these values as its outputs. So this works for any
architecture, and nothing of the original model is loaded. All values are those of the model before rounding.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from tqdm import tqdm

from pipeline.core import layout
from pipeline.core.arrays import Floats
from pipeline.core.contract import GraphContract
from pipeline.core.errors import Problem, UserError
from pipeline.core.schema import Calibration
from pipeline.core.tables.engines import CPU
from pipeline.text import texts, tokens

SAMPLED = 16
WINDOW = 512  # tokens read from an empty cache at a time, if the model accepts that many
FIX = "quantize.rounding=nearest, which reads no text, or precision.compute=fp32"


def windows(point: Path, options: Calibration, contract: GraphContract) -> list[list[int]]:
    """The last `tokens` tokens of the text in windows of 512, the last one shorter.

    The end, because verify measures quality on the beginning of a text, by default of the same one. Each window begins
    with the tokenizer's start token if it has one. Random tokens for a model without a tokenizer. Raises UserError for
    a text without tokens.
    """
    width = min(WINDOW, contract.axes["sequence"], contract.cache_size)
    tokenizer = tokens.load_tokenizer(point / layout.WRAPPED)
    if tokenizer is None:
        vocab = int(contract.logits.shape[2])
        return tokens.cut([], np.random.default_rng(0).integers(0, vocab, options.tokens).tolist(), width)
    text = texts.read(options.text, texts.CALIBRATION, point)[-texts.CHARS_PER_TOKEN * options.tokens :]
    start, found = tokens.split(tokenizer, text)
    if not found:
        raise UserError(Problem("the text has no token", texts.CALIBRATION.key, "give a text that has some"))
    return tokens.cut(start, found[-options.tokens :], width)


def hessians(model: Path, contract: GraphContract, names: set[str], read: list[list[int]]) -> dict[str, Floats]:
    """X^T X [K, K] in fp32 of values [..., K] of the graph in the folder `model`, by name, over all tokens read.

    All are held at once: three quarters of the weights' bytes for SmolLM2-135M. Raises UserError if one is not finite.
    """
    order = sorted(names)
    inference = _observing(model, order)
    sums: dict[str, Floats] = {}
    for window in tqdm(read, desc="calibration", unit="window", leave=False):
        for name, value in zip(order, inference.run(None, _feeds(contract, window)), strict=True):
            x = value.reshape(-1, value.shape[-1]).astype(np.float32, copy=False)
            sums[name] = x.T @ x + sums.get(name, 0)
    for name, total in sums.items():
        if not np.isfinite(total).all():
            what = f"{name}, which goes into a linear layer, is not finite on the calibration text"
            raise UserError(Problem(what, "quantize.rounding", FIX))
    return sums


@dataclass
class Extent:
    """How large one layer's keys or values are. largest: absolute numbers, [kv_heads, head_dim]; sample: every
    SAMPLED-th token's, [tokens, kv_heads, head_dim] each; first: those of each window's first token at position 0,
    [kv_heads, head_dim] each."""

    largest: Floats
    sample: list[Floats]
    first: list[Floats]


def extents(model: Path, contract: GraphContract, updates: dict[str, str], read: list[list[int]]) -> dict[str, Extent]:
    """How large what is written into each cache is over the windows read. updates: cache -> the value written,
    [1, kv_heads, tokens, head_dim].

    The windows are spread over all positions of the cache: rotation moves a key's numbers from channel to channel, and
    the slowest channels show that only after many tokens. A first token is also read alone at position 0, where that of
    a text is: keys and values of a text's first token do not depend on others. (In its window it stays before the
    second token: further away, a model may compute what it never does.) Raises UserError if a number is not finite.
    """
    names = list(updates)
    inference = _observing(model, [updates[name] for name in names])
    found: dict[str, Extent] = {}
    last = contract.cache_size - max(map(len, read))
    starts = np.linspace(0, last, len(read)).astype(np.int64).tolist()
    for window, start in tqdm(list(zip(read, starts, strict=True)), desc="cache", unit="window", leave=False):
        read_whole, read_first = (
            inference.run(None, _feeds(contract, *given)) for given in ((window, start), (window[:1],))
        )
        for name, value, first in zip(names, read_whole, read_first, strict=True):
            numbers = value[0].swapaxes(0, 1)
            largest = np.abs(numbers).max(0)
            if not np.isfinite(largest).all():
                what = f"{updates[name]}, which goes into the cache, is not finite on the calibration text"
                raise UserError(Problem(what, "cache.dtype", "cache.dtype=auto"))
            extent = found.setdefault(name, Extent(largest, [], []))
            extent.largest = np.maximum(extent.largest, largest)
            extent.sample.append(numbers[::SAMPLED].copy())
            extent.first.append(first[0, :, 0].copy())
    return found


def _observing(folder: Path, names: list[str]) -> ort.InferenceSession:
    """The model with these values as its outputs; its weights stay in their file, memory-mapped."""
    model = onnx.load(folder / layout.MODEL, load_external_data=False)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: else a line for every cache that is not written in place
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    options.add_session_config_entry("session.disable_prepacking", "1")  # a second copy of all weights
    return ort.InferenceSession(model.SerializeToString(), options, providers=[CPU])


def _feeds(contract: GraphContract, window: list[int], position: int = 0) -> dict[str, npt.NDArray[np.generic]]:
    """One row of tokens into an empty cache; position: of the first."""
    ids = np.array([window], np.int64)
    return {t.name: np.zeros(t.sized(batch=1), t.dtype) for t in (*contract.caches, *contract.states)} | {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.arange(position, position + len(window))[None],
        "cache_position": np.zeros(1, np.int64),
    }
