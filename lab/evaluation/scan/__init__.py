"""SCAN: which commands a model turns into exactly the right actions."""
