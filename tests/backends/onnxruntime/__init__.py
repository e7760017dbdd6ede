"""Tests of pipeline/backends/onnxruntime."""
