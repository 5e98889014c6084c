"""Splits documents into facts: at headings, paragraphs and sentences, each short enough for a page of its own.

Where facts end depends on the text near by only: an edit of a document changes the facts around it and no others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from kan.prompt import PromptBuilder
from kb.documents import Piece
from kb.facts import Limits
from server.service.errors import DeadlinePassed
from server.service.sections import Format, Section, sections_of

LEAST_TOKENS = 64
"""A fact goes on to here at the least, if its section does: shorter ones say too little alone."""
BLOCK = 16_384
"""Characters that are split in one go: between two of them the bounds are looked at."""
HEADINGS_SHARE = 4
"""Of a fact's tokens its headings may take one in so many; the outermost are left out first."""
MAX_HEADING = 160
"""Characters of a heading that count."""


class Splitter:
    """Thread-safe. What methods and iterators do blocks for as long as it takes to split the text."""

    def __init__(self, builder: PromptBuilder, max_tokens: int, limits: Limits) -> None:
        """`max_tokens`: of a fact."""
        self._builder = builder
        self._max_tokens = max_tokens
        self._max_chars = limits.text_chars

    def fits(self, text: str) -> bool:
        """Whether it is one fact."""
        return len(text) <= self._max_chars and self.tokens(text) <= self._max_tokens

    def tokens(self, text: str) -> int:
        """Of a fact with this text; 0 if there is nothing in it."""
        return len(self._builder.fact(text)) if text.strip() else 0

    def split(self, text: str, kind: Format, deadline: float) -> Iterator[Piece | None]:
        """The facts of a document in its order; None now and then, where others may have their turn. Raises
        DeadlinePassed once time.monotonic() is past `deadline`, ValueError for what `sections_of` refuses."""
        for section in sections_of(text, kind):
            _require_time(deadline)
            if section is None:
                yield None
            else:
                yield from self._of_section(section, markdown=kind == "markdown", deadline=deadline)

    def _of_section(self, section: Section, *, markdown: bool, deadline: float) -> Iterator[Piece | None]:
        if not any(map(str.isalnum, section.text)):
            return
        headings = tuple(title[:MAX_HEADING] for title in section.headings)
        lead = self._lead(headings)
        chunks: Callable[[str], list[tuple[int, str]]] | None = None
        for start, block in _blocks(section.text):
            _require_time(deadline)
            chunks = chunks or self._chunks(lead, markdown=markdown)
            for offset, text in chunks(block):
                if any(map(str.isalnum, text)):
                    yield Piece(lead + text, section.offset + start + offset, headings)
            yield None

    def _lead(self, headings: tuple[str, ...]) -> str:
        """What a fact says before its text: alone, "It is 30 days" is of no use."""
        for first in range(len(headings)):
            lead = f"{' > '.join(headings[first:])}: "
            if self.tokens(lead) * HEADINGS_SHARE <= self._max_tokens:
                return lead
        return ""

    def _chunks(self, lead: str, *, markdown: bool) -> Callable[[str], list[tuple[int, str]]]:
        from semantic_text_splitter import MarkdownSplitter, TextSplitter

        longest = self._max_chars - len(lead)

        def size(text: str) -> int:
            """In tokens, or more than is allowed: splitting what is too long anyway is not worth the time."""
            return self.tokens(lead + text) if len(text) <= longest else max(len(text), self._max_tokens + 1)

        least = min(LEAST_TOKENS, self._max_tokens)
        kind = MarkdownSplitter if markdown else TextSplitter
        return kind.from_callback(size, (least, self._max_tokens)).chunk_indices


def _require_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise DeadlinePassed("The document could not be split in time.")


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Parts of at most BLOCK characters, cut between paragraphs where there are any, else lines, else words."""
    start = 0
    while len(text) - start > BLOCK:
        cuts = (text.rfind(border, start + 1, start + BLOCK) for border in ("\n\n", "\n", " "))
        end = next((cut for cut in cuts if cut > start), start + BLOCK)
        yield start, text[start:end]
        start = end
    yield start, text[start:]
