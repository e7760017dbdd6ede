"""Quantized checkpoints in safetensors: which are read, and what their weights are."""
