"""Stage engine: quantized/ or simplified/ -> engine/, a folder that runs on its own.

engine/ holds the model, engine.json (who runs it and how, the contract, the profiles, versions) and what came
with the model: tokenizer, chat template, generation config.
For ONNX Runtime the model is the portable graph lowered to ONNX Runtime's own operators
(pipeline.backends.onnxruntime.lower), with the same file of weights; only quantized weights are packed anew. For
TensorRT it is a plan (pipeline.backends.tensorrt.build).
Each kind is imported when it is built, so that none needs another's packages.
"""

import shutil
from pathlib import Path

from pipeline.core import layout, stage
from pipeline.core.contract import GraphContract
from pipeline.core.files import atomic_folder
from pipeline.core.schema import Engine, EngineKind, Profile, section

NOT_OF_THE_ENGINE = {layout.PROGRAM, layout.CONTRACT, layout.NOTES}


def build(wrapped: Path, model: Path, engine: Engine, profile: Profile, out: Path) -> None:
    """Write the engine folder `out`. Raises UserError when the engine cannot be built, or does not load."""
    for file in wrapped.iterdir():
        if file.name not in NOT_OF_THE_ENGINE:
            shutil.copy2(file, out / file.name)
    contract = GraphContract.load(wrapped / layout.CONTRACT)
    if engine.kind is EngineKind.onnxruntime:
        from pipeline.backends.onnxruntime import build as onnxruntime_build

        onnxruntime_build.build(model, engine, profile, contract, out)
    else:
        from pipeline.backends.tensorrt import build as tensorrt_build

        tensorrt_build.build(model, engine, profile, contract, out)


def main() -> None:
    """Run the stage in a point's folder."""
    with atomic_folder(Path(layout.ENGINE)) as out:
        build(Path(layout.WRAPPED), layout.final_model(Path()), section(Engine), section(Profile), out)


if __name__ == "__main__":
    stage.run("engine", main)
