"""Forms in the language of grammars: Lark, in llguidance's dialect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llguidance import regex_to_lark
from llguidance.gbnf_to_lark import any_to_lark

from server.service.forms import Form

SPELLING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "coerce_one_of": True}
"""JSON on one line, as models write it by themselves: none can go on with white space for ever."""


def lark_of(form: Form) -> str:
    """The grammar. Raises ValueError."""
    if form.kind == "json":
        return f"start: {json_rule(form.value)}"
    if form.kind == "regex":
        return f"start: /{regex_to_lark(form.value)}/"
    if form.kind == "choice":
        return f"start: {' | '.join(map(quoted, form.value))}"
    try:
        return str(any_to_lark(form.value))
    except Exception as error:  # whatever a hasty converter trips over
        raise ValueError(f"neither Lark nor GBNF: {error}") from error


def json_rule(schema: Any) -> str:
    """What stands in a grammar for the texts that a JSON schema allows."""
    rules = schema if isinstance(schema, Mapping) else {}
    return f"%json {json.dumps({**rules, 'x-guidance': SPELLING})}"


def quoted(text: str) -> str:
    """What stands in a grammar for a text."""
    return json.dumps(text)
