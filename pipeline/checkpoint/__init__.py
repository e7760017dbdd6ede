"""Check a checkpoint's files, and load the original model and its tokenizer from them."""
