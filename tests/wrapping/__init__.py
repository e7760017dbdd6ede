"""Tests of pipeline/wrapping."""
