"""Build engines: one folder for each kind."""
