"""Tables of names and wordings: TOML files under `data`, checked when they are read."""

from __future__ import annotations

import tomllib
from importlib import resources
from string import Formatter
from typing import TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict

from lab.errors import DataError


class Table(BaseModel):
    """A file or a part of one: immutable, and with no field that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


AnyTable = TypeVar("AnyTable", bound=Table)


def read_table(name: str, kind: type[AnyTable]) -> AnyTable:
    """`data/{name}.toml`. Raises DataError, which names the file and what is wrong in it."""
    path = resources.files("lab.questions") / "data" / f"{name}.toml"
    try:
        return kind.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error


def slots(template: str) -> set[str]:
    """What stands in braces. Raises ValueError for braces that do not match."""
    return {slot for _, slot, _, _ in Formatter().parse(template) if slot is not None}


def filled_with(*known: str) -> AfterValidator:
    """Of a field: a template with one or several of these slots and no other."""

    def check(template: str) -> str:
        if not slots(template) or slots(template) - set(known):
            raise ValueError(f"{template!r} must have slots of {known} and no others")
        return template

    return AfterValidator(check)
