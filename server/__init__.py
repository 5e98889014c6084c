"""The HTTP service: wires the model (`kan`) to the knowledge store (`kb`)."""
