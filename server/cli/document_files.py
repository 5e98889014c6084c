"""Files that become documents: which of them, under which id, and their text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

from server.cli.console import CommandError

FORMATS: Final = {
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".pdf": "text",
}
"""By what a file's name ends in."""
MAX_BYTES: Final = 64 * 2**20
"""Of a file: far more than a server takes as one document."""
_ID_CHARS: Final = 100
_NOT_IN_ID: Final = re.compile(r"[^A-Za-z0-9._:@~-]")


@dataclass(frozen=True, slots=True)
class DocumentFile:
    """A file that can be read as a document."""

    path: Path
    id: str

    @property
    def format(self) -> str:
        """Of its text, as the server knows it."""
        return FORMATS[self.path.suffix.lower()]

    def text(self) -> str:
        """Raises CommandError, naming the file."""
        try:
            if self.path.stat().st_size > MAX_BYTES:
                raise CommandError(f"{self.path}: is over {MAX_BYTES} bytes")
            return _text_of_pdf(self.path) if self.path.suffix.lower() == ".pdf" else self.path.read_text("utf-8-sig")
        except OSError as error:
            raise CommandError(f"{self.path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise CommandError(f"{self.path}: is not UTF-8: {error}") from error


def files_in(directory: Path) -> list[DocumentFile]:
    """Those with a known ending, in the order of their names, hidden ones left out; of a single file that one. Raises
    CommandError."""
    if directory.is_file():
        directory, paths = directory.parent, [directory]
    elif directory.is_dir():
        paths = sorted(path for path in directory.rglob("*") if _is_document(path, directory))
    else:
        raise CommandError(f"{directory}: there is no such file or directory")
    if wrong := [path for path in paths if path.suffix.lower() not in FORMATS]:
        raise CommandError(f"{wrong[0]}: must end in {', '.join(FORMATS)}")
    return [DocumentFile(path, id_of(path.relative_to(directory).as_posix())) for path in paths]


def id_of(name: str) -> str:
    """A document's id: of guide/intro.md it is guide:intro.md. Paths that ids cannot spell get a digest."""
    spelled = _NOT_IN_ID.sub("-", name.replace("/", ":"))
    plain = spelled == name.replace("/", ":") and ":" not in name
    if plain and len(spelled) <= _ID_CHARS and spelled[0].isalnum():
        return spelled
    digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return f"{spelled.lstrip('._:@~-')[: _ID_CHARS - 9] or 'x'}~{digest}"


def _is_document(path: Path, directory: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
    return path.suffix.lower() in FORMATS and not hidden and path.is_file()


def _text_of_pdf(path: Path) -> str:
    """Its pages, one paragraph break between two."""
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError as error:
        raise CommandError(f"{path}: PDF needs the extra: pip install 'kalmagrove[pdf]'") from error
    try:
        return "\n\n".join(page.extract_text() for page in PdfReader(path).pages)
    except (PyPdfError, ValueError, KeyError, TypeError, RecursionError) as error:  # what damaged files end in
        raise CommandError(f"{path}: cannot be read as PDF: {error}") from error
