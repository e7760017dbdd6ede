"""Tests of pipeline/generation."""
