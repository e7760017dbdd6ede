"""The tables: engine kinds, weight formats, stages, number types, and what a config key may be."""
