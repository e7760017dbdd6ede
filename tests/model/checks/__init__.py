"""Tests of pipeline/model/checks."""
