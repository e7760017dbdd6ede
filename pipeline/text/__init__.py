"""Text, tokens and sampling."""
