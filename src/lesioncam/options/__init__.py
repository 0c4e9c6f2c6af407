"""Every option, as a type."""
