"""What a client may say of an answer's form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Form:
    """As the client gave it. `value`: a schema (a dict), a regular expression, texts to choose from, or a grammar in
    Lark or GBNF."""

    kind: Literal["json", "regex", "choice", "grammar"]
    value: Any
    param: str
    """The request field it came from."""
