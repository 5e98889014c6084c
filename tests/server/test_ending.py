"""SIGTERM while a server is still loading."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys

import pytest

ALONE = ("unshare", "--user", "--map-root-user", "--pid", "--fork")
LOADING = "import os, signal, server.ending as e; e.end_on_sigterm(); os.kill(os.getpid(), signal.SIGTERM)"


def test_a_signal_ends_it_and_is_seen_to_have() -> None:
    assert subprocess.run([sys.executable, "-c", LOADING]).returncode == -signal.SIGTERM


def test_it_ends_as_the_first_process_of_a_container() -> None:
    """Whom the system ends by no signal that is not caught."""
    if not shutil.which("unshare") or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces here")
    assert subprocess.run([*ALONE, sys.executable, "-c", LOADING]).returncode == 128 + signal.SIGTERM
