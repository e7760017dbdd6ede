"""Stage engine: quantized/ or simplified/ -> engine/, a folder that runs on its own.

engine/ holds the model, engine.json (who runs it and how, the contract, the profiles, versions) and what came
with the model: tokenizer, chat template, generation config.
For ONNX Runtime the model is the portable graph lowered to ONNX Runtime's own operators
(pipeline.backends.onnxruntime.lower), with the same file of weights; only quantized weights are packed again. For
TensorRT it is a plan (pipeline.backends.tensorrt.build). pipeline.core.tables.engines lists all kinds.
"""

import shutil
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from pipeline.core import layout, stage
from pipeline.core.contract import GraphContract
from pipeline.core.files import atomic_folder
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Engine, Profile, section
from pipeline.core.tables.engines import KINDS

ONLY_WRAPPED = {layout.PROGRAM, layout.CONTRACT, layout.NOTES}  # files of wrapped/ that an engine does not need


class BuilderModule(Protocol):
    """What a module that builds a kind of engine offers."""

    def build(self, model: Path, engine: Engine, profiles: Profiles, contract: GraphContract, out: Path) -> None:
        """Write an engine of the portable graph in the folder `model` to the folder `out`, engine.json included."""


def build(wrapped: Path, model: Path, engine: Engine, profile: Profile, out: Path) -> None:
    """Write the engine folder `out`. Raises UserError when the engine cannot be built, or does not load."""
    for file in wrapped.iterdir():
        if file.name not in ONLY_WRAPPED:
            shutil.copy2(file, out / file.name)
    contract = GraphContract.load(layout.contract(wrapped, model))
    profiles = Profiles.from_config(profile)
    builder = cast(BuilderModule, import_module(KINDS[engine.kind].builder))  # no kind's packages for another
    builder.build(model, engine, profiles, contract, out)


def main() -> None:
    """Run the stage in a point's folder."""
    with atomic_folder(Path(layout.ENGINE)) as out:
        build(Path(layout.WRAPPED), layout.final_model(Path()), section(Engine), section(Profile), out)


if __name__ == "__main__":
    stage.run("engine", main)
