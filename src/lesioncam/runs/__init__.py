"""The run folder: what lies on disk, written and read by the same types."""
