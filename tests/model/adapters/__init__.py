"""Tests of pipeline/model/adapters."""
