"""The stages, in the order in which they run: what each reads and what it writes. dvc.yaml says the same to DVC.

To add a stage: its module pipeline/<name>.py, a row here, its entry in dvc.yaml, and a test.
"""

from dataclasses import dataclass

from pipeline.core import layout


@dataclass(frozen=True)
class Stage:
    """One stage: its name, and the files and folders that it reads, besides code and parameters, and writes.

    Paths are relative to the point's folder; those of toolchain and the folder conf/ to the repository.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


STAGES = (
    Stage("toolchain", (), (layout.TOOLCHAIN,)),
    Stage("compose", ("conf",), (layout.PARAMS, layout.CHECKPOINT, layout.TEXT, layout.CALIBRATION)),
    Stage("wrap", (layout.CHECKPOINT,), (layout.WRAPPED,)),
    Stage("export", (layout.WRAPPED,), (layout.ONNX,)),
    Stage("simplify", (layout.ONNX,), (layout.SIMPLIFIED,)),
    Stage(
        "quantize",
        (layout.CHECKPOINT, layout.CALIBRATION, layout.WRAPPED, layout.SIMPLIFIED),
        (layout.QUANTIZED,),
    ),
    Stage("engine", (layout.WRAPPED, layout.SIMPLIFIED, layout.QUANTIZED), (layout.ENGINE,)),
    Stage(
        "verify",
        (
            layout.CHECKPOINT,
            layout.TEXT,
            layout.WRAPPED,
            layout.ONNX,
            layout.SIMPLIFIED,
            layout.QUANTIZED,
            layout.ENGINE,
        ),
        (layout.VERIFY, layout.ACCURACY),
    ),
    Stage("bench", (layout.ENGINE,), (layout.BENCH, layout.LATENCY)),
)
NAMES = tuple(stage.name for stage in STAGES)
OF_A_POINT = NAMES[2:]  # run in the point's folder, by its params.yaml


def last() -> tuple[str, ...]:
    """The stages whose outputs no other stage reads: a point is built when these have run."""
    read = {path for stage in STAGES for path in stage.inputs}
    return tuple(stage.name for stage in STAGES if stage.name in OF_A_POINT and not read & set(stage.outputs))


def downstream(name: str) -> tuple[str, ...]:
    """A stage and all that read, directly or not, what it writes, in the order in which they run."""
    changed: set[str] = set()
    found = []
    for stage in STAGES:
        if stage.name == name or changed & set(stage.inputs):
            found.append(stage.name)
            changed |= set(stage.outputs)
    return tuple(found)
