"""A TCP proxy before PostgreSQL that cuts connections in the midst of a COMMIT."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from sqlalchemy import make_url

Cut = Literal["before", "after"]
"""The database got the COMMIT, or did not."""
ANSWER_SECONDS = 0.1
"""More than a commit takes."""
_COMMIT = b"COMMIT"


class Proxy:
    """Passes everything on, until it is told to cut."""

    def __init__(self, url: str) -> None:
        parts = make_url(url)
        self._upstream = (str(parts.host), int(parts.port or 5432))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = parts.set(port=self._listener.getsockname()[1]).render_as_string(hide_password=False)
        self.cut: Cut | None = None
        """What becomes of the next COMMIT."""
        self.closed = False
        """Whether connections are refused; a cut may set it."""
        self.close_at_cut = False
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """All connections."""
        for one in self._open:
            _end(one)
        self._open.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.closed:
                    near.close()
                    continue
                far = socket.create_connection(self._upstream)
                self._open += [near, far]
                threading.Thread(target=self._pass, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, False), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, asking: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if asking and self.cut is not None and _COMMIT in data:
                    self._cut(data, source, sink)
                else:
                    sink.sendall(data)
        _end(source)
        _end(sink)

    def _cut(self, data: bytes, near: socket.socket, far: socket.socket) -> None:
        self.closed = self.close_at_cut
        after, self.cut = self.cut == "after", None
        _end_reading(near)
        if after:
            far.sendall(data)
            time.sleep(ANSWER_SECONDS)
        _end(far)
        if self.closed:
            self.drop()


@contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()


def _end_reading(near: socket.socket) -> None:
    """The client hears nothing any more, whatever the database answers."""
    with suppress(OSError):
        near.shutdown(socket.SHUT_WR)


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
