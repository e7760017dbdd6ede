"""The original model behind the graph contract, and the exported program of it."""
