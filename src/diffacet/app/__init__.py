"""Runs, reports, the demo and the command line."""
