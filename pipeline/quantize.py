"""Stage quantize: simplified/ -> quantized/, the same graph with weights of 8 or 4 bits, in standard operators.

Which weights: pipeline.quantization.find. Their numbers: grids and, with a text, gptq; or the checkpoint's own blocks,
gguf_blocks. Weights are read one at a time from the data file; what has been quantized stays in memory, and with a text
X^T X of each layer's inputs, three quarters of the weights' bytes.
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
from tqdm import tqdm

from pipeline.core import layout, stage
from pipeline.core.contract import GraphContract
from pipeline.core.dtypes import Floats
from pipeline.core.files import atomic_folder, write_json
from pipeline.core.schema import Calibration, Embedding, Quantize, Rounding, section
from pipeline.core.schema import Weights as Kind
from pipeline.graph import onnx_file
from pipeline.quantization import grids, weights
from pipeline.quantization.gguf_blocks import BLOCK, Library, is_gguf
from pipeline.quantization.gptq import factor, gptq
from pipeline.quantization.grids import FLOAT4, FLOAT8, Grid
from pipeline.quantization.weights import Weight

SMALL_FLOATS = {Kind.fp8: (FLOAT8, 8), Kind.nvfp4: (FLOAT4, 4)}  # and their bits
Array = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Entry:
    """What became of a weight. rms: of the difference from what it was, over the rms of what it was."""

    name: str
    form: str
    bits: int
    block: int
    rows: int
    carried_over: int  # rows whose blocks are the checkpoint's own
    exact: int  # rows of these that are what they were, bit for bit
    rms: float
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class Job:
    """A weight to be quantized. carried: the rows whose blocks are the checkpoint's own, bool [N], and their grid."""

    weight: Weight
    bits: int
    block: int
    carried: tuple[Mask, Grid] | None
    dtype: np.dtype[Any] | None = None  # of small floats; None for whole numbers

    @property
    def inputs(self) -> set[str]:
        """Names of what is multiplied with the weight: one, but for a weight that is used in several places."""
        return {str(reader.inputs[0].name) for reader in self.weight.readers if reader.inputs[0] is not None}


class Quantizer:
    """Chooses and makes the grid of each weight.

    library(bits): the checkpoint's own rows of so many bits. moments(names): X^T X of these inputs of linear layers.
    """

    def __init__(
        self,
        options: Quantize,
        library: Callable[[int], Library | None],
        moments: Callable[[set[str]], dict[str, Floats]] | None = None,
    ) -> None:
        self._options = options
        self._library = library
        self._moments = moments

    def jobs(self, found: list[Weight]) -> list[Job]:
        """What is to be done, in the weights' order."""
        jobs = []
        for weight in found:
            job = self._job(weight)
            if job is not None:
                jobs.append(job)
            weight.release()
        return jobs

    def calibrated(self, jobs: list[Job]) -> dict[str, Floats]:
        """X^T X of the inputs by whose numbers GPTQ will round."""
        needed = [job.inputs for job in jobs if self._by_gptq(job)]
        return self._moments(set().union(*needed)) if self._moments is not None and needed else {}

    def quantize(self, job: Job, moments: dict[str, Floats]) -> tuple[Grid, Entry]:
        """A weight's grid with the numbers that its type can hold, and what is to be reported."""
        rows, tensor = job.weight.rows(), job.weight.tensor
        found, method = np.zeros(len(rows), np.bool_), self._method(job, moments)
        if job.carried is None:
            grid = grids.by_chunks(rows, method)
        else:
            found, grid = job.carried
            if not found.all():
                grid = grids.merge(found, grid, grids.by_chunks(rows[~found], method))
        grid = grid.rounded(tensor.dtype.numpy())
        rms, exact = _difference(rows, grid, found)
        per_block = 1 if grid.q.dtype == FLOAT4 else tensor.dtype.itemsize * (1 + (grid.center is not None))
        size = grid.q.size * grid.bits // 8 + grid.scale.size * per_block
        entry = Entry(
            name=str(job.weight.value.name),
            form=_form(job.weight, grid),
            bits=grid.bits,
            block=grid.block,
            rows=len(rows),
            carried_over=int(found.sum()),
            exact=exact,
            rms=rms,
            bytes_before=tensor.nbytes,
            bytes_after=int(size),
        )
        return grid, entry

    def _kind(self, weight: Weight) -> Kind:
        """What its numbers become."""
        if weight.is_table or weight.is_head:
            return {Embedding.none: Kind.none, Embedding.int8: Kind.int8}[self._options.embedding]
        return self._options.weights

    def _job(self, weight: Weight) -> Job | None:
        kind, k = self._kind(weight), weight.width
        if kind is Kind.none:
            return None
        if kind in SMALL_FLOATS:
            dtype, bits = SMALL_FLOATS[kind]
            block = self._options.block_size or k
            return Job(weight, bits, block, None, dtype) if k % block == 0 else None
        bits = {Kind.int8: 8, Kind.int4: 4}[kind]
        carried = self._carried(weight, bits)
        if carried is not None:
            return Job(weight, bits, BLOCK, carried)
        by_blocks = not (weight.is_table or weight.is_head) and self._options.block_size > 0
        block_or_none = grids.largest_block(k, self._options.block_size) if by_blocks else k
        # where no divisor of k is a block: 8 bits for the whole row
        return Job(weight, 8, k, None) if block_or_none is None else Job(weight, bits, block_or_none, None)

    def _by_gptq(self, job: Job) -> bool:
        anew = job.carried is None or not job.carried[0].all()
        linear = not (job.weight.is_table or job.weight.is_head)
        return self._options.rounding is Rounding.gptq and linear and anew

    def _method(self, job: Job, moments: dict[str, Floats]) -> Callable[[Floats], Grid]:
        """How to round the rows that are not carried over."""
        if job.dtype is not None:
            return partial(grids.nearest_float, block=job.block, dtype=job.dtype)
        centered = job.bits == 4 and (job.carried is not None or not self._options.symmetric)
        if self._by_gptq(job):
            total = np.sum([moments[name] for name in job.inputs], axis=0)
            return partial(gptq, factor=factor(total), block=job.block, bits=job.bits, centered=centered)
        if job.bits == 8:
            return partial(grids.nearest, block=job.block, bits=8)
        return partial(grids.closest, block=job.block, bits=4, centered=centered)

    def _carried(self, weight: Weight, bits: int) -> tuple[Mask, Grid] | None:
        """The checkpoint's own blocks, if at least half the rows are there."""
        library = self._library(bits)
        if library is None or weight.width % BLOCK:
            return None
        places = library.locate(weight.rows())
        found = places[:, 0] >= 0
        return (found, library.grid(places[found])) if found.mean() >= 0.5 else None


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
    return f"{'table' if weight.is_table else 'linear'}, {grid.kind} {sharing}{center}"


def quantize(model: ir.Model, quantizer: Quantizer, least: int = onnx_file.INLINE_BELOW) -> list[Entry]:
    """Quantize the model's weights of `least` bytes and more in place; returns what became of each."""
    jobs = quantizer.jobs(weights.find(model.graph, least))
    moments = quantizer.calibrated(jobs)
    writer = weights.Writer(model.graph)
    entries = []
    for job in tqdm(jobs, desc="quantize", unit="weight", leave=False):
        grid, entry = quantizer.quantize(job, moments)
        (writer.table if job.weight.is_table else writer.linear)(job.weight, grid)
        entries.append(entry)
        job.weight.release()
    NameFixPass()(model)
    return entries


def blocks_of(checkpoint: Path, dtype: npt.DTypeLike) -> Callable[[int], Library | None]:
    """The rows of a GGUF checkpoint by their bits, read when first asked for; none of another checkpoint."""
    return functools.cache(lambda bits: Library(checkpoint, bits, dtype) if is_gguf(checkpoint) else None)


def moments(options: Calibration, names: set[str]) -> dict[str, Floats]:
    """X^T X of these values of the simplified graph over the calibration text, in a point's folder."""
    from pipeline.quantization import (
        calibration,  # with transformers and ONNX Runtime: seconds that are not needed without
    )

    contract = GraphContract.load(Path(layout.WRAPPED, layout.CONTRACT))
    read = calibration.windows(Path(), options, contract)
    print(f"calibration: {sum(map(len, read))} tokens, inputs of {len(names)} layers")
    return calibration.moments(Path(layout.SIMPLIFIED), contract, names, read)


def report(options: Quantize, entries: list[Entry]) -> dict[str, Any]:
    """What quantize.json holds."""
    totals = {name: sum(getattr(e, name) for e in entries) for name in ("bytes_before", "bytes_after")}
    return {"weights": options.weights.value, **totals, "tensors": [asdict(entry) for entry in entries]}


def main() -> None:
    """Run the stage in a point's folder."""
    options = section(Quantize)
    with atomic_folder(Path(layout.QUANTIZED)) as out:
        entries: list[Entry] = []
        if options.weights is not Kind.none:
            model = onnx_file.load(Path(layout.SIMPLIFIED))
            logits = model.graph.outputs[0].dtype
            assert logits is not None
            library = blocks_of(Path(layout.CHECKPOINT), logits.numpy()) if options.gguf_blocks else lambda _: None
            entries = quantize(model, Quantizer(options, library, partial(moments, options.calibration)))
            onnx_file.save(model, out)
        summary = report(options, entries)
        write_json(out / layout.QUANTIZATION, summary)
    carried = sum(entry.carried_over == entry.rows for entry in entries)
    megabytes = (summary[name] / 1e6 for name in ("bytes_before", "bytes_after"))
    print(
        "{} weights, {} of them as in the checkpoint: {:.0f} MB -> {:.0f} MB".format(len(entries), carried, *megabytes)
    )


if __name__ == "__main__":
    stage.run("quantize", main)
