"""Tests of pipeline/reporting/plots."""
