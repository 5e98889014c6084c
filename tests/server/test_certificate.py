"""The certificate that new connections get, over real TLS, when its files change."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import trustme

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.http.certificate import Certificate, CertificateError
from server.settings import Settings
from tests.server.live import Live, listening
from tests.server.support import build_services


@dataclass(frozen=True)
class Issuer:
    """An authority, and the two files into which it writes what it issues."""

    directory: Path
    authority: trustme.CA

    @property
    def files(self) -> tuple[Path, Path]:
        return self.directory / "server.pem", self.directory / "server.key"

    @property
    def trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    def issue(self) -> None:
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        certfile, keyfile = self.files
        issued.cert_chain_pems[0].write_to_path(str(certfile))
        issued.private_key_pem.write_to_path(str(keyfile))

    def shown(self, url: str, name: str = "127.0.0.1") -> str:
        """Serial number of what a new connection is shown. A client that knows an address only names no host."""
        with (
            socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=10) as plain,
            self.trusting.wrap_socket(plain, server_hostname=name) as connection,
        ):
            found = connection.getpeercert()
            assert found is not None
            return str(found["serialNumber"])


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    issuer = Issuer(tmp_path, trustme.CA())
    issuer.issue()
    return issuer


@pytest.fixture
def certificate(issuer: Issuer) -> Certificate:
    return Certificate(*issuer.files, "")


@pytest.fixture
def live(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, certificate: Certificate) -> Iterator[Live]:
    with listening(build_services(tmp_path, tiny, encoder), certificate=certificate) as live:
        yield live


def test_new_connections_get_the_new_one_and_open_ones_go_on(
    live: Live, issuer: Issuer, certificate: Certificate
) -> None:
    with httpx.Client(base_url=live.url, verify=issuer.trusting) as kept:
        assert kept.get("/health").status_code == 200
        before = issuer.shown(live.url)
        issuer.issue()
        assert issuer.shown(live.url) == before, "nobody has said so yet"
        certificate.refresh()
        after = issuer.shown(live.url)
        assert after != before
        assert issuer.shown(live.url, "localhost") == after
        assert httpx.get(f"{live.url}/health", verify=issuer.trusting).status_code == 200
        response = kept.get("/health")
        shown = response.extensions["network_stream"].get_extra_info("ssl_object").getpeercert()["serialNumber"]
        assert shown == before
        issuer.issue()
        certificate.refresh()
        assert issuer.shown(live.url) not in (before, after)


@pytest.mark.parametrize("damage", ["absent", "empty", "another's key", "cut"])
def test_what_cannot_be_used_changes_nothing(
    live: Live, issuer: Issuer, certificate: Certificate, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = issuer.shown(live.url)
    kept = [path.read_bytes() for path in issuer.files]
    certfile, keyfile = issuer.files
    if damage == "absent":
        certfile.unlink()
    elif damage == "empty":
        keyfile.write_bytes(b"")
    elif damage == "cut":
        certfile.write_bytes(kept[0][:200])
    else:
        issuer.issue()
        keyfile.write_bytes(kept[1])
    with caplog.at_level(logging.INFO, "kalmagrove.certificate"):
        certificate.refresh()
    (told,) = [record for record in caplog.records if record.name == "kalmagrove.certificate"]
    assert told.levelno == logging.ERROR
    assert "server.pem" in told.getMessage()
    assert issuer.shown(live.url) == before
    issuer.issue()
    certificate.refresh()
    assert issuer.shown(live.url) != before


def test_a_key_and_its_password(issuer: Issuer, tmp_path: Path) -> None:
    """What cannot be used is named, and nobody is asked for a password."""
    certfile, keyfile = issuer.files
    assert Certificate.of(Settings()) is None
    assert Certificate.of(Settings(ssl_certfile=certfile, ssl_keyfile=keyfile))
    keyfile.write_bytes(_encrypted(keyfile.read_bytes(), b"open sesame"))
    assert Certificate.of(Settings(ssl_certfile=certfile, ssl_keyfile=keyfile, ssl_keyfile_password="open sesame"))
    for wrong in ({}, {"ssl_keyfile_password": "shut"}, {"ssl_certfile": tmp_path / "absent.pem"}):
        settings = Settings(**{"ssl_certfile": certfile, "ssl_keyfile": keyfile, **wrong})
        with pytest.raises(CertificateError, match=r"\.pem") as refused:
            Certificate.of(settings)
        assert "shut" not in str(refused.value)
    assert "sesame" not in repr(Settings(ssl_certfile=certfile, ssl_keyfile_password="open sesame"))


def _encrypted(pem: bytes, password: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(pem, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))
