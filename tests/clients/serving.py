"""A tiny model, served by the environment that can: `python -m tests.clients.serving DIRECTORY`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.tiny import tiny_checkpoint


def main(directory: Path) -> None:
    """Becomes `kalmagrove serve`, at KALMAGROVE_PORT."""
    checkpoint = tiny_checkpoint(directory, max_position_embeddings=16384)
    own = {"KALMAGROVE_MODEL": str(checkpoint.directory), "KALMAGROVE_DATA_DIR": str(directory / "data")}
    os.execve(sys.executable, [sys.executable, "-m", "server.cli", "serve"], {**os.environ, **own})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
