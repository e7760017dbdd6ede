"""Tests of pipeline/packed."""
