"""Studies: from one small file to trained runs, and from runs to tables, tests and pictures."""
