"""Models of clicks from a click log to a run, its numbers, its predictions, and candidates in a better order."""
