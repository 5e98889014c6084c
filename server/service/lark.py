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

_NAMED = frozenset({"properties", "$defs", "definitions"})
_LISTED = frozenset({"prefixItems", "anyOf", "oneOf"})
_SINGLE = frozenset({"items", "additionalProperties"})
"""Where schemas stand within a schema."""
_OF_PARTS = frozenset({"allOf", "patternProperties", "unevaluatedProperties", "minProperties"})


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
    rules = closed(schema) if isinstance(schema, Mapping) else {}
    return f"%json {json.dumps({**rules, 'x-guidance': SPELLING})}"


def closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema whose objects have only the properties that it names, unless it says otherwise: else a model goes on
    inventing some. What fits it fits the schema as well. Schemas that put objects together of parts stay as they are.
    """
    return _closed(schema) if _whole(schema) else schema


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    inner = {name: _inner(name, value) for name, value in schema.items()}
    named = inner.get("properties")
    must = inner.get("required", [])
    if (
        isinstance(named, Mapping)
        and isinstance(must, list)
        and all(isinstance(name, str) and name in named for name in must)
    ):
        inner.setdefault("additionalProperties", False)
    return inner


def _inner(name: str, value: Any) -> Any:
    if name in _NAMED and isinstance(value, Mapping):
        return {key: _closed(one) for key, one in value.items()}
    if name in _LISTED and isinstance(value, list):
        return [_closed(one) for one in value]
    return _closed(value) if name in _SINGLE else value


def _whole(schema: Any) -> bool:
    """Whether every object is told in one place."""
    if isinstance(schema, list):
        return all(map(_whole, schema))
    if not isinstance(schema, Mapping):
        return True
    parts = _OF_PARTS & schema.keys()
    beside = "properties" in schema and schema.keys() & {"$ref", "anyOf", "oneOf"}
    return not (parts or beside) and all(map(_whole, schema.values()))


def quoted(text: str) -> str:
    """What stands in a grammar for a text."""
    return json.dumps(text)
