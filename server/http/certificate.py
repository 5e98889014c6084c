"""TLS: the certificate that listeners show, and its key, read anew when somebody says that they have changed."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from server.settings import Settings

logger = logging.getLogger("kalmagrove.certificate")


class CertificateError(Exception):
    """Certificate and key cannot be used; the message names their files, never a password."""


class Certificate:
    """What every listener shows. Connections that begin get what was read last; those that are open keep theirs."""

    def __init__(self, certfile: Path, keyfile: Path | None, password: str) -> None:
        """Raises CertificateError. Nobody is asked for a password."""
        self._certfile = certfile
        self._keyfile = keyfile
        self._password = password
        self._newest = self._read()
        self.context = self._newest
        """For the listeners, which keep it for ever: it hands each connection on to the newest one."""
        self.context.sni_callback = self._hand_on

    @classmethod
    def of(cls, settings: Settings) -> Certificate | None:
        """None without TLS. Raises CertificateError."""
        if settings.ssl_certfile is None:
            return None
        password = settings.ssl_keyfile_password
        return cls(settings.ssl_certfile, settings.ssl_keyfile, password.get_secret_value() if password else "")

    def refresh(self) -> None:
        """Read the files anew. What cannot be used is logged, and changes nothing."""
        try:
            self._newest = self._read()
        except CertificateError as error:
            logger.error("%s; new connections get the certificate known before", error)
        else:
            logger.info("%s: read anew, for new connections", self._certfile)

    def _read(self) -> ssl.SSLContext:
        """A context of its own, so that a pair that does not fit leaves no other one half replaced."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._certfile, self._keyfile, lambda: self._password)
        except OSError as error:  # ssl.SSLError is one
            files = " and ".join(str(path) for path in (self._certfile, self._keyfile) if path)
            reason = error.strerror or error
            raise CertificateError(f"{files}: no usable certificate and key ({reason})") from error
        return context

    def _hand_on(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        """Called when a client begins, whether it names a host or not."""
        connection.context = self._newest
