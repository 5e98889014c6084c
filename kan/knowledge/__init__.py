"""What knowledge is to the model: pages of keys and values, the bias φ and the adapter, and what φ goes by."""
