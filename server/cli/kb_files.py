"""Files that `kalmagrove kb` reads and writes; - is the standard stream."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from server.cli.console import CommandError, progress_bar

CHUNK = 64 * 1024


@contextmanager
def reading(file: Path) -> Iterator[Iterator[bytes]]:
    """Chunks of a file, with a bar that follows them."""
    try:
        with progress_bar() as bar, _source(file) as source:
            size = None if file == Path("-") else os.fstat(source.fileno()).st_size
            task = bar.add_task("bytes", total=size)

            def chunks() -> Iterator[bytes]:
                while chunk := source.read(CHUNK):
                    yield chunk
                    bar.advance(task, len(chunk))

            yield chunks()
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror or error}") from error


@contextmanager
def _source(file: Path) -> Iterator[IO[bytes]]:
    if file == Path("-"):
        yield sys.stdin.buffer
        return
    with file.open("rb") as source:
        yield source


@contextmanager
def writing(file: Path) -> Iterator[IO[bytes]]:
    """A file that appears complete or not at all."""
    if file == Path("-"):
        yield sys.stdout.buffer
        return
    partial = file.with_name(f"{file.name}.part")
    try:
        with partial.open("wb") as sink:
            yield sink
        partial.replace(file)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
