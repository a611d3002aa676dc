"""Logs of interactions: their form, filters, splits and directories (Polars and NumPy, no torch)."""
