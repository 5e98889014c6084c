"""vLLM's processes must not outlive the server: one that is killed has no chance to stop them itself."""

from __future__ import annotations

import os
import threading
import time

SERVER = "_KALMAGROVE_SERVER_PID"
"""Environment variable that the server sets for its children. Not a setting."""
POLL_SECONDS = 0.5
STATUS = 70


def exit_with_parent() -> None:
    """In a process that the server started, directly or not: end it when its parent has ended."""
    server = os.environ.get(SERVER)
    if server is None or int(server) == os.getpid():
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(STATUS)

    threading.Thread(target=watch, name="kalmagrove-orphan", daemon=True).start()
