"""Stage export: wrapped/ -> onnx/, the portable graph in standard ONNX operators only.

torch.onnx translates the program operator by operator; the two kvforge operators become one node each:
`kvforge::scatter` TensorScatter, `kvforge::attend` Attention. No optimiser runs here: pipeline.simplify does that.
"""

import logging
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.onnx_opset import opset24 as op

from pipeline import (
    graph,
    kv,  # noqa: F401  # registers the operators
    layout,
    stage,
)
from pipeline.files import replacing_folder
from pipeline.signature import Signature
from pipeline.spec import Export, section


def _scatter(cache: Any, update: Any, position: Any) -> Any:
    return op.TensorScatter(cache, update, position, axis=2, mode="linear")


def _attend(query: Any, key: Any, value: Any, length: Any, mask: Any, scale: float, softcap: float) -> Any:
    if mask is None:
        # with lengths, is_causal aligns the new tokens to each row's last used slots (Attention-24)
        return op.Attention(query, key, value, None, None, None, length, is_causal=1, scale=scale, softcap=softcap)[0]
    return op.Attention(query, key, value, mask, scale=scale, softcap=softcap)[0]


def _cast(value: Any, dtype: int, *_: Any, **__: Any) -> Any:
    return op.Cast(value, to=dtype)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.kvforge.scatter.default: _scatter,
    torch.ops.kvforge.attend.default: _attend,
    torch.ops.aten.to.dtype: _cast,
}


def translate(program: torch.export.ExportedProgram, signature: Signature, opset: int) -> ir.Model:
    """The program as an ONNX graph with the contract's names for inputs, outputs and axes."""
    export = partial(
        torch.onnx.export,
        program,
        dynamo=True,
        opset_version=opset,
        optimize=False,
        verbose=False,
        input_names=[t.name for t in signature.inputs],
        output_names=[t.name for t in signature.outputs],
        custom_translation_table=TRANSLATIONS,
    )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports that torchvision is not installed
    with warnings.catch_warnings():
        theirs = "`isinstance.treespec, LeafSpec.` is deprecated"
        warnings.filterwarnings("ignore", theirs, FutureWarning)
        # torch.onnx would first decompose the program, which traces all of it again: 25 s of 30 for SmolLM2-135M, and
        # the same graph when every operator has a translation. So that is done only when one has none.
        decompose = program.run_decompositions
        program.run_decompositions = lambda _: program
        try:
            exported = export()
        except torch.onnx.OnnxExporterError:
            program.run_decompositions = decompose
            exported = export()
    assert exported is not None
    model = exported.model
    tokens = model.graph.inputs[0].shape
    assert tokens is not None
    symbols = {str(dim): name for dim, name in zip(tokens, ("batch", "sequence"), strict=True)}
    graph.rename_axes(model, symbols)
    graph.fold_weight_transposes(model)
    graph.keep_module_names(model)
    return model


def main() -> None:
    """Run the stage in a point's folder."""
    wrapped = Path(layout.WRAPPED)
    program = torch.export.load(wrapped / layout.PROGRAM)
    model = translate(program, Signature.load(wrapped / layout.SIGNATURE), section(Export).opset)
    with replacing_folder(Path(layout.ONNX)) as out:
        graph.save(model, out)


if __name__ == "__main__":
    stage.run("export", main)
