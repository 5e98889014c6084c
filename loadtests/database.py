"""A PostgreSQL of the load test's own: on loopback, empty at first, gone at the end."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from loadtests.serving import ServerStartError, free_port

START_TIMEOUT_S = 60.0
DEBIANS = Path("/usr/lib/postgresql")
"""Where Debian's packages put each version's programs."""
ROLE = "kalmagrove"
USER = "postgres"
"""Who runs it if we are root, whom PostgreSQL refuses."""


def missing() -> str | None:
    """What has to be installed for it, in words."""
    if _programs() is None:
        return "PostgreSQL is not installed (Debian's package postgresql)"
    if find_spec("psycopg") is None:
        return "psycopg is not installed (pip install 'kalmagrove[postgres]')"
    return None


class Database:
    """A cluster with one database. It may be killed, and started again."""

    def __init__(self, directory: Path) -> None:
        """Makes it; it does not run yet. Raises ServerStartError."""
        programs = _programs()
        if programs is None:
            raise ServerStartError(str(missing()))
        self._programs = programs
        self._data = directory / "data"
        self._log = directory / "log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        # Whom root made a directory for may not be who runs the database.
        if (user := _user()) is not None:
            shutil.chown(directory, user)
        command = [
            str(programs / "initdb"),
            "--pgdata",
            str(self._data),
            "--auth=trust",
            f"--username={ROLE}",
            "--no-sync",
        ]
        made = subprocess.run([*command, "--encoding=UTF8", "--locale=C"], capture_output=True, text=True, user=_user())
        if made.returncode:
            raise ServerStartError(made.stdout + made.stderr)

    @property
    def url(self) -> str:
        """Of its database."""
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/postgres"

    def empty(self) -> str:
        """The same in a schema of its own, which is much sooner made and removed than a database."""
        name = f"kalmagrove_{secrets.token_hex(4)}"
        command = [str(self._programs / "psql"), "-q", "-d", self.url, "-c", f"CREATE SCHEMA {name}"]
        subprocess.run(command, check=True)
        return f"{self.url}?options=-csearch_path%3D{name}"

    def start(self) -> None:
        """Returns once it takes connections. Raises ServerStartError."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            # After a kill what is left of the one before may still be in the way: then it ends, and is started again.
            if self._process is None or self._process.poll() is not None:
                self._process = self._started()
            ask = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "2"]
            if subprocess.run(ask, check=False).returncode == 0:
                return
            time.sleep(0.05)
        raise ServerStartError(f"PostgreSQL did not start:\n{self._log.read_text('utf-8', 'replace')[-4000:]}")

    def kill(self) -> None:
        """kill -9, as from a power failure of the process."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """At once, without saying goodbye to anybody."""
        self._end(signal.SIGQUIT)

    def _started(self) -> subprocess.Popen[bytes]:
        options = ("listen_addresses=127.0.0.1", f"unix_socket_directories={self._data}", "shared_buffers=32MB")
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        with self._log.open("ab") as log:
            arguments = [*command, *(part for option in options for part in ("-c", option))]
            return subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, user=_user())

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            self._process.wait()
            self._process = None


@contextmanager
def temporary_database() -> Iterator[Database]:
    """Running, until the block ends. Raises ServerStartError."""
    with tempfile.TemporaryDirectory(prefix="kalmagrove-postgres-", ignore_cleanup_errors=True) as name:
        database = Database(Path(name))
        try:
            database.start()
            yield database
        finally:
            database.stop()


def _user() -> str | None:
    """None: our own."""
    if os.geteuid():
        return None
    with suppress(KeyError):
        return pwd.getpwnam(USER).pw_name
    return None


def _programs() -> Path | None:
    """The newest version's."""
    found = [path.parent for path in DEBIANS.glob("*/bin/initdb")]
    if not found and (elsewhere := shutil.which("initdb")):
        found = [Path(elsewhere).resolve().parent]
    return max(found, key=lambda path: path.parent.name, default=None)
