"""Tests of pipeline/core/tables."""
