"""Files of every kind, decoded."""
