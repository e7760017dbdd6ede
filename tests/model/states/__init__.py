"""Tests of pipeline.model.states."""
