"""The vector index: immutable segments, and what merges them."""
