"""Run models: one interface, one module for each runtime."""
