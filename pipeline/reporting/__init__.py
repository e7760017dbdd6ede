"""The report of points: what is known of each, which to take, and a page of it."""
