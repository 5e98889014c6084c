"""Training φ on a frozen model."""
