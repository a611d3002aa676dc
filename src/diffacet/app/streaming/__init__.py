"""`diffacet import` for logs larger than memory: the steps of `data.streaming`, driven."""
