"""HTTP endpoints. Each module makes one router; none does work at import."""
