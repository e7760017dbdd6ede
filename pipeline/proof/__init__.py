"""Compare an artifact with the original model."""
