"""Questions about facts, by data set, and the facts to mount for them."""
