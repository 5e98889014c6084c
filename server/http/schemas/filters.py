"""The `filter` field of requests: read by `kb.filters`, told wrong by its path."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from kb.filters import COMBINERS, MAX_CLAUSES, MAX_VALUES, OPERATORS, Filter, InvalidFilter, read_filter

_DESCRIPTION = (
    f"Only facts whose metadata satisfies it: fields with operators ({', '.join(OPERATORS)}), or "
    f"{', '.join(COMBINERS)} of filters; several are all to hold. At most {MAX_CLAUSES} clauses, and "
    f"{MAX_VALUES} values in lists."
)
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": True,
    "description": _DESCRIPTION,
    "examples": [{"town": {"eq": "Velm"}, "year": {"gte": 1990, "lt": 2000}}],
}


def filter_at(path: str) -> Any:
    """The type of a field that stands at this path of the body."""

    def read(value: object) -> Filter:
        try:
            return read_filter(value, path)
        except InvalidFilter as error:
            problem = {"param": error.path, "problem": error.message}
            raise PydanticCustomError("filter", "{problem}", problem) from error

    return Annotated[Any, PlainValidator(read), WithJsonSchema(_SCHEMA)]
