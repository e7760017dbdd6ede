"""What a package of a built point holds, and how it is put together."""
