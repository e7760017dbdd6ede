"""How many causal LMs of transformers other exporters build, and how many of these give the right tokens."""
