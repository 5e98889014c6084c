"""What the `kb` commands have in common: options, and JSON in and out."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Key = Annotated[
    str | None, typer.Option("--key", envvar="KALMAGROVE_ADMIN_KEY", help="Admin key, if the server has keys.")
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Namespace of the fact; default: default, or where a bound key is at home."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def json_object(text: str, option: str) -> dict[str, Any]:
    """What an option says. Raises BadParameter."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=option) from error
    if not isinstance(value, dict):
        raise typer.BadParameter("not a JSON object", param_hint=option)
    return value


def show(value: object) -> None:
    """As JSON, to stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
