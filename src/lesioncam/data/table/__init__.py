"""A user's table: read, checked, split."""
