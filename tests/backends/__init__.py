"""Tests of pipeline/backends."""
