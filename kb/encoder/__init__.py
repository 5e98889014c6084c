"""ρ: sentences to unit vectors, and the vectors that are kept."""
