"""Names of the files in a point's folder, artifacts/<point>/: the interface between stages."""

from pathlib import Path

TOOLCHAIN = "artifacts/toolchain.json"  # of all points, in the repository's root
HISTORY = "artifacts/history.jsonl"  # what stages took on this machine, a line each; there too
REPORT = "artifacts/report.html"  # of all points; there too
REPORT_DATA = "artifacts/report.json"
PARAMS = "params.yaml"
CHECKPOINT = "checkpoint"
TEXT = "text"
CALIBRATION = "calibration"
LINEAGE = "lineage.json"  # what became of each stage, when and where

WRAPPED = "wrapped"
ONNX = "onnx"
SIMPLIFIED = "simplified"
QUANTIZED = "quantized"
ENGINE = "engine"
CLIENT = "client"  # not a folder: engine/ in onnxruntime-genai
NETWORK = "network"  # not a folder: the network that TensorRT parsed before it built the engine

PROGRAM = "model.pt2"
CONTRACT = "signature.json"
NOTES = "notes.json"  # in wrapped/: decisions about positions, as sentences
MODEL = "model.onnx"
DATA = "model.onnx.data"  # the weights of more than onnx_file.INLINE_UP_TO bytes
CHANGES = "simplify.json"
QUANTIZATION = "quantize.json"
PLAN = "model.plan"  # TensorRT's engine
ENGINE_INFO = "engine.json"
GENAI_CONFIG = "genai_config.json"  # of an engine for clients
VERIFY = "verify.json"
ACCURACY = "accuracy.json"
BENCH = "bench.json"
LATENCY = "latency.json"


def contract(wrapped: Path, model: Path) -> Path:
    """The file of the contract of the model in a folder: its own if it has one, as with a quantized cache, else that of
    wrapped/."""
    own = model / CONTRACT
    return own if own.exists() else wrapped / CONTRACT


def final_model(point: Path) -> Path:
    """The folder of the portable model that a point's engine is built from: quantized/ if it holds a model."""
    quantized = point / QUANTIZED
    return quantized if (quantized / MODEL).exists() else point / SIMPLIFIED
