"""Stage engine: quantized/ or simplified/ -> engine/, a folder that runs on its own.

engine/ holds the model, engine.json (who runs it and how, the contract, the profiles, versions) and what came
with the model: tokenizer, chat template, generation config.
For ONNX Runtime the model is the portable graph lowered to ONNX Runtime's own operators (pipeline.lower), with the
same file of weights; only quantized weights are packed anew. For TensorRT it is a plan (pipeline.tensorrt_build).
Each kind is imported when it is built, so that none needs another's packages.
"""

import shutil
from pathlib import Path

from pipeline import layout, stage
from pipeline.files import replacing_folder
from pipeline.signature import Signature
from pipeline.spec import Engine, EngineKind, Profile, section

NOT_OF_THE_ENGINE = {layout.PROGRAM, layout.SIGNATURE, layout.NOTES}


def build(wrapped: Path, model: Path, engine: Engine, profile: Profile, out: Path) -> None:
    """Write the engine folder `out`. Raises UserError when the engine cannot be built, or does not load."""
    for file in wrapped.iterdir():
        if file.name not in NOT_OF_THE_ENGINE:
            shutil.copy2(file, out / file.name)
    signature = Signature.load(wrapped / layout.SIGNATURE)
    if engine.kind is EngineKind.onnxruntime:
        from pipeline import onnxruntime_build

        onnxruntime_build.build(model, engine, profile, signature, out)
    else:
        from pipeline import tensorrt_build

        tensorrt_build.build(model, engine, profile, signature, out)


def main() -> None:
    """Run the stage in a point's folder."""
    with replacing_folder(Path(layout.ENGINE)) as out:
        build(Path(layout.WRAPPED), layout.final_model(Path()), section(Engine), section(Profile), out)


if __name__ == "__main__":
    stage.run("engine", main)
