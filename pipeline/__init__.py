"""kvforge: a Hugging Face causal LM in; a static-KV-cache ONNX model and an inference engine out."""

import gc
import sys

# While `python -m NAME` imports NAME's package sys.argv starts with "-m", and in sys.orig_argv NAME stands where the
# arguments begin. Where NAME is ours this is a short process, whose objects mostly stay until its end: looking through
# them for cycles costs 0.5 s of each import of torch, and 1 s of a program's tracing. In anyone else's process, which
# may run for days, the collector is not ours to switch off.
if sys.argv[:1] == ["-m"]:
    _name = sys.orig_argv[len(sys.orig_argv) - len(sys.argv)].removeprefix("-m")
    if _name.partition(".")[0] == __name__:
        gc.disable()
