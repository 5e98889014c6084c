"""The service on the tiny model, as in tests/server."""

from tests.server.conftest import encoder, service

__all__ = ["encoder", "service"]
