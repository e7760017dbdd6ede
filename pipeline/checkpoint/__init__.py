"""A checkpoint's files: where they are, what is wrong with them, and the original model loaded from them."""
