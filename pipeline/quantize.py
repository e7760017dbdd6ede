"""Stage quantize: simplified/ -> quantized/, the same graph with weights of 8 or 4 bits, in standard operators.

Which weights: pipeline.weights. Their numbers: pipeline.grids, or the checkpoint's own blocks: pipeline.gguf_blocks.
Weights are read one at a time from the data file; only what has been quantized stays in memory.
With quantize.weights=none quantized/ holds the report alone, and the engine is made of simplified/.
"""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from pipeline import graph, grids, layout, stage, weights
from pipeline.files import replacing_folder, write_json
from pipeline.gguf_blocks import BLOCK, Library, is_gguf
from pipeline.grids import Floats, Grid
from pipeline.spec import Embedding, Quantize, section
from pipeline.spec import Weights as Kind
from pipeline.weights import Weight

Array = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Entry:
    """What became of a weight. rms: of the difference from what it was, over the rms of what it was."""

    name: str
    form: str
    block: int
    rows: int
    carried_over: int  # rows whose blocks are the checkpoint's own
    exact: int  # rows of these that are what they were, bit for bit
    rms: float
    bytes_before: int
    bytes_after: int


class Quantizer:
    """Chooses and makes the grid of each weight. `library(bits)`: the checkpoint's own rows of so many bits."""

    def __init__(self, options: Quantize, library: Callable[[int], Library | None]) -> None:
        self._options = options
        self._library = library

    def bits(self, weight: Weight) -> int | None:
        """4 or 8, or None for a weight that stays as it is."""
        if weight.is_table or weight.is_head:
            return {Embedding.none: None, Embedding.int8: 8}[self._options.embedding]
        return {Kind.none: None, Kind.int8: 8, Kind.int4: 4}[self._options.weights]

    def quantize(self, weight: Weight, bits: int) -> tuple[Grid, Entry]:
        """A weight's grid with the numbers that its type can hold, and what is to be reported."""
        tensor = weight.tensor
        array = tensor.numpy()
        rows = array if weight.by_rows else array.T
        carried = self._carried(rows, bits)
        if carried is None:
            grid = grids.by_chunks(rows, self._method(weight, bits, rows.shape[1]))
            found = np.zeros(len(rows), np.bool_)
        else:
            found, grid = carried
        grid = grid.rounded(tensor.dtype.numpy())
        rms, exact = _difference(rows, grid, found)
        size = grid.q.size * grid.bits // 8 + grid.scale.size * tensor.dtype.itemsize * (1 + (grid.center is not None))
        entry = Entry(
            name=str(weight.value.name),
            form=_form(weight, grid),
            block=grid.block,
            rows=len(rows),
            carried_over=int(found.sum()),
            exact=exact,
            rms=rms,
            bytes_before=tensor.nbytes,
            bytes_after=int(size),
        )
        return grid, entry

    def _method(self, weight: Weight, bits: int, k: int) -> Callable[[Floats], Grid]:
        """How to round rows of k values anew."""
        options = self._options
        by_blocks = not (weight.is_table or weight.is_head) and options.block_size > 0
        block = grids.largest_block(k, options.block_size) if by_blocks else k
        if block is None:  # no divisor of k is a block
            block, bits = k, 8
        return _anew(block, bits, centered=not options.symmetric)

    def _carried(self, rows: Array, bits: int) -> tuple[Mask, Grid] | None:
        """The checkpoint's own blocks, if at least half the rows are there, and the others in blocks of that size."""
        library = self._library(bits)
        if library is None or rows.shape[1] % BLOCK:
            return None
        places = library.locate(rows)
        found = places[:, 0] >= 0
        if found.mean() < 0.5:
            return None
        own = library.grid(places[found])
        if found.all():
            return found, own
        return found, grids.merge(found, own, grids.by_chunks(rows[~found], _anew(BLOCK, bits, centered=True)))


def _anew(block: int, bits: int, *, centered: bool) -> Callable[[Floats], Grid]:
    if bits == 8:
        return partial(grids.nearest, block=block, bits=bits)
    return partial(grids.closest, block=block, bits=bits, centered=centered)


def _difference(rows: Array, grid: Grid, which: Mask) -> tuple[float, int]:
    """The grid's difference from the rows, relative to their rms, and how many rows of `which` have none."""
    difference = size = 0.0
    exact = 0
    for start, part in grids.chunks(rows, rows.shape[1]):
        here = slice(start, start + len(part))
        values = grid.part(here).values().astype(part.dtype)
        exact += int((values == part).all(axis=1)[which[here]].sum())
        wide = part.astype(np.float32)
        difference += float(np.square(values - wide).sum(dtype=np.float64))
        size += float(np.square(wide).sum(dtype=np.float64))
    return (difference / size) ** 0.5 if size else 0.0, exact


def _form(weight: Weight, grid: Grid) -> str:
    whole = grid.bits == 8 and grid.block == grid.q.shape[1]
    sharing = f"blocks of {grid.block}" if not whole else "per row" if weight.is_table else "per channel"
    center = "" if grid.center is None else " with a center"
    return f"{'table' if weight.is_table else 'linear'}, int{grid.bits} {sharing}{center}"


def quantize(model: ir.Model, quantizer: Quantizer, least: int = graph.INLINE_BELOW) -> list[Entry]:
    """Quantize the model's weights of `least` bytes and more in place; returns what became of each."""
    writer = weights.Writer(model.graph)
    entries = []
    for weight in weights.find(model.graph, least):
        bits = quantizer.bits(weight)
        if bits is None:
            continue
        grid, entry = quantizer.quantize(weight, bits)
        (writer.table if weight.is_table else writer.linear)(weight, grid)
        entries.append(entry)
        if isinstance(weight.tensor, ir.ExternalTensor):
            weight.tensor.release()  # its pages of the data file leave memory
    NameFixPass()(model)
    return entries


def blocks_of(checkpoint: Path, dtype: npt.DTypeLike) -> Callable[[int], Library | None]:
    """The rows of a GGUF checkpoint by their bits, read when first asked for; none of another checkpoint."""
    return functools.cache(lambda bits: Library(checkpoint, bits, dtype) if is_gguf(checkpoint) else None)


def report(options: Quantize, entries: list[Entry]) -> dict[str, Any]:
    """What quantize.json holds."""
    totals = {name: sum(getattr(e, name) for e in entries) for name in ("bytes_before", "bytes_after")}
    return {"weights": options.weights.value, **totals, "tensors": [asdict(entry) for entry in entries]}


def main() -> None:
    """Run the stage in a point's folder."""
    options = section(Quantize)
    with replacing_folder(Path(layout.QUANTIZED)) as out:
        entries: list[Entry] = []
        if options.weights is not Kind.none:
            model = graph.load(Path(layout.SIMPLIFIED))
            logits = model.graph.outputs[0].dtype
            assert logits is not None
            library = blocks_of(Path(layout.CHECKPOINT), logits.numpy()) if options.gguf_blocks else lambda _: None
            entries = quantize(model, Quantizer(options, library))
            graph.save(model, out)
        summary = report(options, entries)
        write_json(out / layout.QUANTIZATION, summary)
    carried = sum(entry.carried_over == entry.rows for entry in entries)
    megabytes = (summary[name] / 1e6 for name in ("bytes_before", "bytes_after"))
    print(
        "{} weights, {} of them as in the checkpoint: {:.0f} MB -> {:.0f} MB".format(len(entries), carried, *megabytes)
    )


if __name__ == "__main__":
    stage.run("quantize", main)
