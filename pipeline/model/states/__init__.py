"""States other than keys and values: convolutions and recurrences over the sequence."""
