"""Programs that run an engine for clients."""
