"""Tests; each file is named after the module of pipeline/ that it tests."""
