"""Tests of pipeline/checkpoint."""
