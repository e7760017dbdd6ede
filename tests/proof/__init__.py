"""Tests of pipeline/proof."""
