"""Build engines for TensorRT and TensorRT-RTX."""
