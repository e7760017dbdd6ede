"""The portable ONNX graph: its file, its names, and the passes over it."""
