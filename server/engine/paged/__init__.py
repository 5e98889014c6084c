"""The embedded engine: one process, one thread, a paged cache."""
