"""Engines: the same interface over different ways to run the model."""
