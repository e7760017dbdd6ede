"""Tests of pipeline/proof/tensorrt."""
