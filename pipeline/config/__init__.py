"""conf/ and overrides -> checked parameters, with every mistake reported at once."""
