"""Tests of pipeline/quantization."""
