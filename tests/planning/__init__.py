"""Tests of pipeline/planning."""
