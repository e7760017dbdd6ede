"""Names of the files in a point's folder, artifacts/<point>/: the interface between stages."""

from pathlib import Path

TOOLCHAIN = "artifacts/toolchain.json"  # of all points, in the repository's root
PARAMS = "params.yaml"
CHECKPOINT = "checkpoint"
TEXT = "text"
CALIBRATION = "calibration"

WRAPPED = "wrapped"
ONNX = "onnx"
SIMPLIFIED = "simplified"
QUANTIZED = "quantized"
ENGINE = "engine"
NETWORK = "network"  # no folder: what TensorRT made of the model before it built the engine

PROGRAM = "model.pt2"
CONTRACT = "signature.json"
NOTES = "notes.json"  # of wrapped/: what was decided about positions, as sentences
MODEL = "model.onnx"
DATA = "model.onnx.data"  # every weight of graph.INLINE_BELOW bytes and more
CHANGES = "simplify.json"
QUANTIZATION = "quantize.json"
PLAN = "model.plan"  # TensorRT's engine
ENGINE_INFO = "engine.json"
VERIFY = "verify.json"
ACCURACY = "accuracy.json"
BENCH = "bench.json"
LATENCY = "latency.json"


def final_model(point: Path) -> Path:
    """The folder of the portable model that a point's engine is made of: quantized/ where it holds one."""
    quantized = point / QUANTIZED
    return quantized if (quantized / MODEL).exists() else point / SIMPLIFIED
