"""Stage export: wrapped/ -> onnx/, the portable graph in standard ONNX operators only.

torch.onnx translates the program operator by operator, with pipeline.graph.translations for some; the two kvforge
operators of the cache become one node each: `kvforge::scatter` TensorScatter, `kvforge::attend` Attention;
pipeline.graph.experts and pipeline.graph.recurrence write the other two. No optimizer runs here:
stage simplify does that.
"""

import re
import warnings
from functools import partial
from pathlib import Path

import onnx_ir as ir
import torch

from pipeline.core import layout, stage
from pipeline.core.contract import GraphContract
from pipeline.core.errors import Refusal, UserError, first_line
from pipeline.core.files import atomic_folder
from pipeline.core.logs import errors_only
from pipeline.core.schema import Export, section
from pipeline.core.tables.refusals import FIXES, Category
from pipeline.graph import naming, onnx_file
from pipeline.graph.experts import write_experts
from pipeline.graph.fold_transposes import fold_weight_transposes
from pipeline.graph.pack import pack_projections
from pipeline.graph.recurrence import write_recurrences
from pipeline.graph.translations import TRANSLATIONS
from pipeline.model import pt2
from pipeline.model.patches import no_decomposition

NODE = re.compile(r"node %(\w+)")  # in the exporter's message
CASTS = (torch.ops.aten.to.dtype, torch.ops.aten.to.dtype_layout, torch.ops.aten._to_copy.default)


def _casts_operands(node: torch.fx.Node) -> bool:
    """Tell whether PyTorch converts an operand to the type of another one, or of the result; ONNX never does."""
    result = node.meta.get("val")
    values = (source.meta.get("val") for source in node.all_input_nodes)
    operands = {value.dtype for value in values if isinstance(value, torch.Tensor)}
    operands.discard(torch.bool)
    if not isinstance(node.target, torch._ops.OpOverload) or node.target in CASTS:
        return False
    if not operands or not isinstance(result, torch.Tensor):
        return False
    if torch.Tag.pointwise in node.target.tags and len(operands) > 1:
        return True
    return result.dtype not in {*operands, torch.bool} or (
        not any(dtype.is_floating_point for dtype in operands) and any(isinstance(a, float) for a in node.args)
    )


def _untranslated(program: torch.export.ExportedProgram, error: BaseException) -> Refusal:
    """Return the problem of an operator that has no translation, with the module that it belongs to."""
    names = set(NODE.findall(_messages(error)))
    node = next((node for node in program.graph.nodes if node.name in names), None)
    modules = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()] if node else []
    while error.__cause__ is not None:
        error = error.__cause__
    what = f"torch.onnx does not translate {node.target if node else 'the program'}: {first_line(error)}"
    where = f"module {modules[-1]}" if modules else "model"
    return Refusal(what, where, FIXES[Category.TRACING], Category.TRACING)


def _messages(error: BaseException) -> str:
    """Return the messages of an error and of those before it: only one from before decompositions names an operator as
    the program does."""
    before = [each for each in (error.__cause__, error.__context__) if each is not None]
    return "\n".join([str(error), *map(_messages, dict.fromkeys(before))])


def translate(program: torch.export.ExportedProgram, contract: GraphContract, opset: int) -> ir.Model:
    """Return the program as an ONNX graph with the contract's names for inputs, outputs and axes.

    Raises UserError for an operator that torch.onnx cannot translate.
    """
    export = partial(
        torch.onnx.export,
        program,
        dynamo=True,
        opset_version=opset,
        optimize=False,
        verbose=False,
        input_names=[t.name for t in contract.inputs],
        output_names=[t.name for t in contract.outputs],
        custom_translation_table=TRANSLATIONS,
    )
    with warnings.catch_warnings(), errors_only("torch.onnx"):  # it reports that torchvision is not installed
        theirs = "`isinstance.treespec, LeafSpec.` is deprecated"
        warnings.filterwarnings("ignore", theirs, FutureWarning)
        # Decomposing the program and inserting casts takes most of the time. It changes nothing when every operator has
        # a translation and takes its operands as they are, so it is done only when one does not.
        try:
            if any(map(_casts_operands, program.graph.nodes)):
                exported = export()
            else:
                try:
                    with no_decomposition():
                        exported = export()
                except Exception:  # whatever a translation raises, it may be of an operator that was not decomposed
                    exported = export()
        except (OSError, MemoryError):
            raise
        except Exception as error:
            raise UserError(_untranslated(program, error)) from error
    assert exported is not None
    model = exported.model
    tokens = model.graph.inputs[0].shape
    assert tokens is not None
    symbols = {str(dim): name for dim, name in zip(tokens, ("batch", "sequence"), strict=True)}
    naming.rename_axes(model, symbols)
    write_experts(model)
    write_recurrences(model)
    fold_weight_transposes(model)
    naming.keep_module_names(model)
    pack_projections(model)
    naming.name_nodes(model, naming.exported_modules(model))
    return model


def main() -> None:
    """Run the stage in a point's folder."""
    wrapped = Path(layout.WRAPPED)
    model = translate(
        pt2.load(wrapped / layout.PROGRAM), GraphContract.load(wrapped / layout.CONTRACT), section(Export).opset
    )
    with atomic_folder(Path(layout.ONNX)) as out:
        onnx_file.save(model, out)


if __name__ == "__main__":
    stage.run("export", main)
