"""Token ids to text as they come, without ever showing half a character."""

from __future__ import annotations

import codecs
from collections.abc import Container
from typing import Protocol


class TokenBytes(Protocol):
    """What is needed of a tokenizer."""

    @property
    def special_ids(self) -> Container[int]:
        """Tokens that stand for no text."""
        ...

    def token_bytes(self, token_id: int, /) -> bytes:
        """The bytes the token stands for: not always whole characters."""
        ...


class IncrementalDetokenizer:
    """One sequence's text in pieces. Joined: all its tokens' bytes decoded at once, U+FFFD for non-UTF-8."""

    def __init__(self, tokenizer: TokenBytes) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """The text that this token made certain; bytes of an unfinished character (up to 3) are held back."""
        if token_id in self._tokenizer.special_ids:
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """What was held back, as U+FFFD: no more tokens will come. Starts a new sequence."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
