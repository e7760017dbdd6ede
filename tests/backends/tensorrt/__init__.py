"""Tests of pipeline/backends/tensorrt."""
