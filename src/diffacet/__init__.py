"""diffacet."""
