"""One request as its client saw it end, whatever came: for scenarios in which answers may break off or never begin."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

DONE = b"data: [DONE]\n\n"
"""How a stream of events ends that is whole."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What came of a request."""

    status: int | None = None
    """None: no answer began."""
    retry_after: str | None = None
    """The header of this name, as it came."""
    body: bytes = b""
    """As much of the answer as came."""
    failure: str | None = None
    """What broke it, if something did."""
    not_connected: bool = False
    """There was no connection, so the server does not know of it."""

    @property
    def unanswered(self) -> bool:
        """There was a connection, but no answer began."""
        return self.status is None and not self.not_connected


async def exchange(http: httpx.AsyncClient, method: str, path: str, body: object) -> Exchange:
    """Send JSON and read the answer to its end. Raises nothing but cancellation."""
    status: int | None = None
    retry_after: str | None = None
    received = bytearray()
    failure: str | None = None
    not_connected = False
    try:
        async with http.stream(method, path, json=body) as response:
            status, retry_after = response.status_code, response.headers.get("retry-after")
            async for part in response.aiter_raw():
                received += part
    except httpx.HTTPError as error:
        failure = f"{type(error).__name__} {error}".strip()
        not_connected = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return Exchange(status, retry_after, bytes(received), failure, not_connected)
