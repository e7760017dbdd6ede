"""Tables and declarations that many modules read."""
