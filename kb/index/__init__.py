"""The index, dense and lexical: immutable segments, and what merges them."""
