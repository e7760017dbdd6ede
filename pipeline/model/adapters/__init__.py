"""Changes to a model's modules that let a static cache and a symbolic sequence through; its numbers stay."""
