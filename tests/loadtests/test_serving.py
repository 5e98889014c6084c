"""A load test that is ended leaves no server behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TEST = """
import os, sys
from pathlib import Path
from loadtests.serving import free_port, running

port = free_port()
command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
with running(command, os.environ, port, ready="/", log_path=Path(sys.argv[1])) as server:
    print(server.process.pid, flush=True)
    sys.stdin.read()
"""


def test_sigterm_ends_the_server_as_well(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TEST, str(tmp_path / "log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as test:
        assert test.stdout
        served = int(test.stdout.readline())
        test.send_signal(signal.SIGTERM)
        assert test.wait(30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(served, 0)
