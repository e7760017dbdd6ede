"""Build the engine for ONNX Runtime: the portable graph lowered to its own operators, and engine.json."""

import shutil
from dataclasses import asdict
from pathlib import Path

import onnx_ir as ir
import onnxruntime

from pipeline import graph, layout
from pipeline.errors import Problem, UserError
from pipeline.files import write_json
from pipeline.lower import lower
from pipeline.runtime import open_engine
from pipeline.signature import Signature
from pipeline.spec import Engine, Profile


def build(model: Path, engine: Engine, profile: Profile, signature: Signature, out: Path) -> None:
    """Write model and engine.json to `out` and load them once, so that an engine which does not load fails here."""
    lowered = graph.load(model)
    if engine.lower:
        lower(lowered, int8_activations=engine.int8_activations)
    if any(node.op_type == "MatMulNBits" for node in lowered.graph):
        graph.save(lowered, out)
    else:  # the same bytes as before, which DVC's cache then stores once
        ir.save(lowered, out / layout.MODEL)
        shutil.copyfile(model / layout.DATA, out / layout.DATA)
    info = {
        "kind": engine.kind.value,
        "provider": engine.provider,
        "optimization": engine.optimization.value,
        "threads": engine.threads,
        "lower": engine.lower,
        "int8_activations": engine.int8_activations,
        "onnxruntime": onnxruntime.__version__,
        "profiles": {name: asdict(ranges) for name, ranges in profile.named().items()},
        "signature": asdict(signature),
    }
    write_json(out / layout.ENGINE_INFO, info)
    try:
        open_engine(out)
    except UserError:
        raise
    except Exception as error:  # onnxruntime raises classes of its own for every failure
        first = str(error).strip().splitlines()[0]
        raise UserError(
            Problem(
                f"{engine.kind.value} does not load the model: {first}",
                "engine",
                "choose another precision or engine; the line above names the operator",
            )
        ) from error
