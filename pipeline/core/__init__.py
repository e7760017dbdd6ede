"""What every stage shares: errors, files, the schema of params.yaml, the graph contract. It imports nothing heavy."""
