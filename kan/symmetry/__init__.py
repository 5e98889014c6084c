"""Finite groups, how they act on words and channels, and the layers that commute with that."""
