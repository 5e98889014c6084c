"""Training of all of a model's weights, from the first."""
