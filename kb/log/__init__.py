"""The durable log of edits: SQLite or PostgreSQL, its head marker, and reading the past out of it."""
