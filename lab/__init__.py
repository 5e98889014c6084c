"""The laboratory: questions, training and evaluation. Nothing that serves imports it."""
