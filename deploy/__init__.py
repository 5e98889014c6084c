"""What runs and watches a server in production. Nothing that serves imports it."""
