"""Tests of pipeline/sweeps/."""
