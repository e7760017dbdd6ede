"""Build engines for ONNX Runtime."""
