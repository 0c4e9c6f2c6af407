"""A subject against the truth, on one split of a table."""
