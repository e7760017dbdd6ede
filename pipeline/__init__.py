"""kvforge: a Hugging Face causal LM in; a static-KV-cache ONNX model and an inference engine out."""

import gc
import sys

if sys.argv[:1] == ["-m"]:  # python -m pipeline.NAME: a short process, whose objects mostly stay until its end
    gc.disable()  # to look through them for cycles costs 0.5 s of each import of torch, and 1 s of a program's tracing
