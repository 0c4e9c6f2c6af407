"""Side-by-side measurements in one run: ratios and limits, never timed tests."""
