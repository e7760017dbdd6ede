"""Names of the files in a point's folder, artifacts/<point>/: the interface between stages."""

PARAMS = "params.yaml"
CHECKPOINT = "checkpoint"
TEXT = "text"

WRAPPED = "wrapped"
ONNX = "onnx"
SIMPLIFIED = "simplified"
QUANTIZED = "quantized"
ENGINE = "engine"

PROGRAM = "model.pt2"
SIGNATURE = "signature.json"
MODEL = "model.onnx"
DATA = "model.onnx.data"  # every weight of graph.INLINE_BELOW bytes and more
CHANGES = "simplify.json"
ENGINE_INFO = "engine.json"
VERIFY = "verify.json"
ACCURACY = "accuracy.json"
BENCH = "bench.json"
LATENCY = "latency.json"
