"""`kalmagrove key`: make API keys."""

from __future__ import annotations

import re
import secrets
from typing import Annotated

import typer

from server.cli.console import messages
from server.http.key_line import KEY_NAME, options_of
from server.http.keys import hash_key

Namespaces = Annotated[
    list[str] | None, typer.Option(help="A namespace that it opens for that; * for all. May be repeated.")
]
app = typer.Typer(help="Make API keys.", no_args_is_help=True)


@app.callback()
def key() -> None:
    """Make API keys."""


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, dot, dash, underscore.")],
    read: Annotated[
        list[str] | None, typer.Option(help="A namespace that it may read; * for all. May be repeated.")
    ] = None,
    edit: Annotated[
        list[str] | None, typer.Option(help="A namespace that it may edit; * for all. May be repeated.")
    ] = None,
    weight: Annotated[float | None, typer.Option(help="Share where callers wait for each other; default: 1.")] = None,
) -> None:
    """Print a new random key, and the line that a keys file needs to know it.

    The key is kept nowhere and goes to stderr; the line goes to stdout: `kalmagrove key create me >> keys`. Without
    --read and --edit it opens every namespace.
    """
    if not re.fullmatch(KEY_NAME, name):
        raise typer.BadParameter(f"{name!r} is not 1 to 64 letters, digits, dots, dashes or underscores")
    try:
        options = options_of(_joined(read), _joined(edit), weight)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    secret = f"kg-{secrets.token_urlsafe(32)}"
    messages().print(f"key, shown this once: [bold]{secret}[/]", highlight=False, soft_wrap=True)
    typer.echo(f"{name}:{hash_key(secret).hex()}{options}")


def _joined(names: list[str] | None) -> str | None:
    return ",".join(names) if names else None
