"""Figures and the HTML report: reads a run folder only."""
