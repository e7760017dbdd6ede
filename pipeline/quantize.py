"""Stage quantize: simplified/ -> quantized/, the same graph with weights and cache of few bits, in standard operators.

Which weights: pipeline.quantization.find. Their numbers: grids and gptq, or the checkpoint's own, checkpoint_rows.
The formats: pipeline.core.tables.formats. Weights are read one at a time from the data file; quantized ones stay in
memory, and with GPTQ the Hessians of the layers' inputs, three quarters of the weights' bytes.
The cache: pipeline.quantization.caches; quantized/ then has a contract of its own, with the cache's scales.
Where neither is quantized, quantized/ holds the report alone, and the engine is made of simplified/.
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
from tqdm import tqdm

from pipeline.core import layout, stage
from pipeline.core.arrays import Floats
from pipeline.core.contract import GraphContract
from pipeline.core.errors import Problem, UserError
from pipeline.core.files import atomic_folder, write_json
from pipeline.core.schema import Cache, Calibration, Quantize, Rounding, section
from pipeline.core.tables.formats import FORMATS, Format, Weights
from pipeline.graph import onnx_file
from pipeline.quantization import caches, grids
from pipeline.quantization.checkpoint_rows import CheckpointRows, of_checkpoint
from pipeline.quantization.find import Weight, find
from pipeline.quantization.gptq import gptq, inverse_hessian_cholesky
from pipeline.quantization.grids import Grid
from pipeline.quantization.write import Writer

Array = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class WeightReport:
    """The result for one weight. rms: of the error, relative to the rms of the weight."""

    name: str
    form: str
    bits: int
    block: int
    rows: int
    carried_over: int  # rows whose blocks are the checkpoint's own
    stored_as: str  # what these are in the checkpoint, as "Q4_K, Q6_K"
    exact: int  # rows of these that are bit for bit what they were
    rms: float
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class WeightPlan:
    """How a weight will be quantized. carried: which rows have blocks of the checkpoint, bool [N], and their grid."""

    weight: Weight
    format: Format
    block: int
    carried: tuple[Mask, Grid] | None = None
    stored_as: str = ""

    @property
    def inputs(self) -> set[str]:
        """Names of the values multiplied by the weight: one, unless the weight is used in several places."""
        return {str(reader.inputs[0].name) for reader in self.weight.readers if reader.inputs[0] is not None}


class Quantizer:
    """Chooses and computes the grid of each weight.

    own_rows(): the checkpoint's rows that are on a grid, None for a checkpoint without any. hessians(names): X^T X of
    these inputs of linear layers.
    """

    def __init__(
        self,
        options: Quantize,
        own_rows: Callable[[], CheckpointRows | None],
        hessians: Callable[[set[str]], dict[str, Floats]] | None = None,
    ) -> None:
        self._options = options
        self._own_rows = own_rows
        self._compute_hessians = hessians

    def plan(self, found: list[Weight]) -> list[WeightPlan]:
        """What is to be done, in the weights' order; weights that stay as they are have no plan."""
        plans = []
        for weight in found:
            plan = self._plan(weight)
            if plan is not None:
                plans.append(plan)
            weight.release()
        return plans

    def hessians(self, plans: list[WeightPlan]) -> dict[str, Floats]:
        """X^T X of the inputs that GPTQ needs, by name."""
        needed = [plan.inputs for plan in plans if self._by_gptq(plan)]
        return self._compute_hessians(set().union(*needed)) if self._compute_hessians is not None and needed else {}

    def quantize(self, plan: WeightPlan, hessians: dict[str, Floats]) -> tuple[Grid, WeightReport]:
        """A weight's grid, with scales and offsets as they are stored, and its report."""
        rows, tensor = plan.weight.rows(), plan.weight.tensor
        found, round_rows = np.zeros(len(rows), np.bool_), self._method(plan, hessians)
        if plan.carried is None:
            grid = grids.by_chunks(rows, round_rows)
        else:
            found, grid = plan.carried
            if not found.all():
                grid = grids.merge(found, grid, grids.by_chunks(rows[~found], round_rows))
        grid = grid.rounded(tensor.dtype.numpy())
        rms, exact = _difference(rows, grid, found)
        report = WeightReport(
            name=str(plan.weight.value.name),
            form=_form(plan.weight, grid),
            bits=grid.format.bits,
            block=grid.block,
            rows=len(rows),
            carried_over=int(found.sum()),
            stored_as=plan.stored_as,
            exact=exact,
            rms=rms,
            bytes_before=tensor.nbytes,
            bytes_after=grid.stored_bytes(tensor.dtype.numpy().itemsize),
        )
        return grid, report

    def _plan(self, weight: Weight) -> WeightPlan | None:
        by_row = weight.is_table or weight.is_head  # a scale for each row
        kind = Weights(self._options.embedding.value) if by_row else self._options.weights
        if kind is Weights.none:
            return None
        fmt, k = FORMATS[kind], weight.width
        if weight.is_stack and fmt.is_float:
            what = f"quantize.weights={kind.value} does not reach the experts of a mixture"
            raise UserError(Problem(what, "quantize.weights", "choose int8, int4 or none"))
        carried = self._carried(weight, fmt, by_row)
        if carried is not None:
            return carried
        size = 0 if by_row else self._options.block_size
        block = grids.largest_block(k, size) if size else k
        if block is not None:
            return WeightPlan(weight, fmt, block)
        # a width that no block divides: integers of 8 bits for the whole row, but engines mix no floats with them
        return None if fmt.is_float else WeightPlan(weight, FORMATS[Weights.int8], k)

    def _by_gptq(self, plan: WeightPlan) -> bool:
        anew = plan.carried is None or not plan.carried[0].all()
        linear = not (plan.weight.is_table or plan.weight.is_head or plan.weight.is_stack)
        return self._options.rounding is Rounding.gptq and linear and anew

    def _method(self, plan: WeightPlan, hessians: dict[str, Floats]) -> Callable[[Floats], Grid]:
        """How to round the rows that are not carried over."""
        offset = (
            not plan.weight.is_stack
            and plan.format.offsets
            and (plan.carried is not None or not self._options.symmetric)
        )
        options: dict[str, Any] = {"block": plan.block, "fmt": plan.format, "offset": offset}
        if self._by_gptq(plan):
            hessian = np.sum([hessians[name] for name in plan.inputs], axis=0)
            return partial(gptq, cholesky=inverse_hessian_cholesky(hessian), **options)
        return partial(grids.round_rows, **options)

    def _carried(self, weight: Weight, fmt: Format, by_row: bool) -> WeightPlan | None:
        """The checkpoint's own grid, if at least half the rows are there.

        Integers that need more bits than were asked for get 8. Fewer are not given where 8 were asked for: a layer with
        one scale for each channel is faster, and embedding and LM head have 8 bits.
        """
        rows = None if fmt.is_float else self._own_rows()
        if rows is None:
            return None
        places = rows.locate(weight.rows())
        bits = rows.bits(places)
        found = bits > (0 if by_row or fmt.bits == 4 else 4)
        if found.mean() < 0.5:
            return None
        places, widest = places[found], int(bits[found].max())
        grid = rows.grid(places, fmt if widest <= fmt.bits else FORMATS[Weights.int8])
        if grid is None or (grid.order is not None and (weight.is_table or not found.all())):
            return None  # rows that are rounded anew have the order of the inputs
        if grid.offset is not None and any(reader.op_type == "Transpose" for reader in weight.readers):
            return None  # a tied head has no form with offsets
        if weight.is_stack and (grid.offset is not None or grid.order is not None or grid.format != fmt):
            return None  # nor have experts, and both of their products have equal bits
        return WeightPlan(weight, grid.format, grid.block, (found, grid), ", ".join(rows.kinds(places)))


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
    whole = grid.format.bits == 8 and grid.block == grid.q.shape[1]
    sharing = f"blocks of {grid.block}" if not whole else "per row" if weight.is_table else "per channel"
    offset = "" if grid.offset is None else " with a center"  # the report's word for an offset
    kind = "experts" if weight.is_stack else "table" if weight.is_table else "linear"
    return f"{kind}, {grid.format.numbers} {sharing}{offset}"


def quantize(model: ir.Model, quantizer: Quantizer, least: int = onnx_file.INLINE_UP_TO) -> list[WeightReport]:
    """Quantize the model's weights of `least` bytes and more in place; returns a report for each."""
    plans = quantizer.plan(find(model.graph, least))
    hessians = quantizer.hessians(plans)
    writer = Writer(model)
    reports = []
    for plan in tqdm(plans, desc="quantize", unit="weight", leave=False):
        grid, weight_report = quantizer.quantize(plan, hessians)
        writer.write(plan.weight, grid)
        reports.append(weight_report)
        plan.weight.release()
    writer.finish()
    return reports


def own_rows_of(checkpoint: Path, dtype: npt.DTypeLike) -> Callable[[], CheckpointRows | None]:
    """The rows of a checkpoint that are on a grid, read when first asked for; None for one without any."""

    def read() -> CheckpointRows | None:
        tensors = list(of_checkpoint(checkpoint))
        return CheckpointRows(tensors, dtype) if tensors else None

    return functools.cache(read)


def hessians(options: Calibration, names: set[str]) -> dict[str, Floats]:
    """X^T X of these values of the simplified graph over the calibration text, in a point's folder."""
    from pipeline.quantization import calibration  # imports transformers and ONNX Runtime, seconds that others save

    contract = GraphContract.load(Path(layout.WRAPPED, layout.CONTRACT))
    windows = calibration.windows(Path(), options, contract)
    print(f"calibration: {sum(map(len, windows))} tokens, inputs of {len(names)} layers")
    return calibration.hessians(Path(layout.SIMPLIFIED), contract, names, windows)


def quantize_cache(model: ir.Model, options: Calibration, bits: int) -> GraphContract:
    """Quantize the cache of a point's model in place, in the point's folder; return its contract."""
    from pipeline.quantization import calibration  # as above

    contract = GraphContract.load(Path(layout.WRAPPED, layout.CONTRACT))
    simplified = onnx_file.load(Path(layout.SIMPLIFIED))
    writes = caches.writes(simplified, [cache.name for cache in contract.caches])
    windows = calibration.windows(Path(), options, contract)
    print(f"calibration: {sum(map(len, windows))} tokens, keys and values of {len(writes) // 2} layers")
    updates = {name: str(node.inputs[1].name) for name, node in writes.items() if node.inputs[1] is not None}
    found = calibration.extents(Path(layout.SIMPLIFIED), contract, updates, windows)
    scales = {
        name: caches.scales(each.largest, np.concatenate(each.sample), np.stack(each.first), bits)
        for name, each in found.items()
    }
    caches.quantize(model, scales, bits)
    return contract.quantized(bits, {name: scale.tolist() for name, scale in scales.items()})


def summary(options: Quantize, reports: list[WeightReport]) -> dict[str, Any]:
    """The content of quantize.json."""
    totals = {name: sum(getattr(r, name) for r in reports) for name in ("bytes_before", "bytes_after")}
    return {"weights": options.weights.value, **totals, "tensors": [asdict(report) for report in reports]}


def main() -> None:
    """Run the stage in a point's folder."""
    options, bits = section(Quantize), section(Cache).dtype.bits
    with atomic_folder(Path(layout.QUANTIZED)) as out:
        reports: list[WeightReport] = []
        model = onnx_file.load(Path(layout.SIMPLIFIED))
        if options.weights is not Weights.none:
            logits = model.graph.outputs[0].dtype
            assert logits is not None
            rows = own_rows_of(Path(layout.CHECKPOINT), logits.numpy()) if options.gguf_blocks else lambda: None
            reports = quantize(model, Quantizer(options, rows, partial(hessians, options.calibration)))
        if bits:
            quantize_cache(model, options.calibration, bits).save(out / layout.CONTRACT)
        if options.weights is not Weights.none or bits:
            onnx_file.save(model, out)
        totals = summary(options, reports)
        write_json(out / layout.QUANTIZATION, totals)
    carried = sum(report.carried_over == report.rows for report in reports)
    megabytes = (totals[name] / 1e6 for name in ("bytes_before", "bytes_after"))
    print(
        "{} weights, {} of them as in the checkpoint: {:.0f} MB -> {:.0f} MB".format(len(reports), carried, *megabytes)
    )


if __name__ == "__main__":
    stage.run("quantize", main)
