"""The service: a run in service, its HTTP interface, its process, and the page that shows what refinement does."""
