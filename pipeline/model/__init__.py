"""Put the original model behind the graph contract, and load its exported program."""
