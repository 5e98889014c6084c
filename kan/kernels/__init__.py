"""Attention kernels behind one signature: `reference` is the truth in float64, the others are fast."""
