"""Whether a model can be built, before and while it is traced."""
