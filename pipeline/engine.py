"""Stage engine: quantized/ or simplified/ -> engine/, a folder that runs on its own.

engine/ holds the model, engine.json (who runs it and how, the contract, the profiles, versions) and what came
with the model: tokenizer, chat template, generation config.
For ONNX Runtime the model is the portable graph lowered to ONNX Runtime's own operators (pipeline.lower), with the
same file of weights; only quantized weights are packed anew. TensorRT plans belong into this stage.
"""

import shutil
from dataclasses import asdict
from pathlib import Path

import onnx_ir as ir
import onnxruntime

from pipeline import graph, layout, stage
from pipeline.errors import Problem, UserError
from pipeline.files import replacing_folder, write_json
from pipeline.lower import lower
from pipeline.runtime import open_engine
from pipeline.signature import Signature
from pipeline.spec import Engine, Profile, section

NOT_OF_THE_ENGINE = {layout.PROGRAM, layout.SIGNATURE}


def build(wrapped: Path, model: Path, engine: Engine, profile: Profile, out: Path) -> None:
    """Write the engine folder `out` and load it once, so that an engine which does not load fails here."""
    lowered = graph.load(model)
    if engine.lower:
        lower(lowered, int8_activations=engine.int8_activations)
    if any(node.op_type == "MatMulNBits" for node in lowered.graph):
        graph.save(lowered, out)
    else:  # the same bytes as before, which DVC's cache then stores once
        ir.save(lowered, out / layout.MODEL)
        shutil.copyfile(model / layout.DATA, out / layout.DATA)
    for file in wrapped.iterdir():
        if file.name not in NOT_OF_THE_ENGINE:
            shutil.copy2(file, out / file.name)
    info = {
        "kind": engine.kind.value,
        "provider": engine.provider,
        "optimization": engine.optimization.value,
        "threads": engine.threads,
        "lower": engine.lower,
        "int8_activations": engine.int8_activations,
        "onnxruntime": onnxruntime.__version__,
        "profiles": asdict(profile),
        "signature": asdict(Signature.load(wrapped / layout.SIGNATURE)),
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


def main() -> None:
    """Run the stage in a point's folder."""
    with replacing_folder(Path(layout.ENGINE)) as out:
        build(Path(layout.WRAPPED), layout.final_model(Path()), section(Engine), section(Profile), out)


if __name__ == "__main__":
    stage.run("engine", main)
