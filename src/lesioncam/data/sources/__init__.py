"""Public data sets by name: one file each, a folder in, a table out."""
