"""Page content in number formats that are not used any more: what is deleted must not lie on there."""

from __future__ import annotations

import logging
from pathlib import Path

from kan.knowledge.pages import SUFFIX, TEMPORARY_SUFFIX
from server.engine.pages.sharing import SharedDirectory

log = logging.getLogger(__name__)


def clear_other_formats(root: Path, used: Path) -> None:
    """Delete the page files of all directories under `root` but `used`, and those of processes that live. What is lost
    costs only time. Never fails."""
    for directory in sorted(path for path in root.rglob("*") if path.is_dir()):
        if directory != used and used not in directory.parents:
            try:
                _clear(directory)
            except OSError as error:
                log.error("old page content in %s could not be deleted: %s", directory, error)


def _clear(directory: Path) -> None:
    files = [path for path in directory.iterdir() if path.suffix in (SUFFIX, TEMPORARY_SUFFIX)]
    if not files:
        return
    shared = SharedDirectory(directory)
    try:
        if shared.alone():
            log.info("%d files of page content in another number format are deleted: %s", len(files), directory)
            for path in files:
                path.unlink(missing_ok=True)
    finally:
        shared.close()
