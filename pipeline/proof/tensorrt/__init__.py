"""Run a TensorRT network without TensorRT's kernels."""
