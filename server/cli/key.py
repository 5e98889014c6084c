"""`kalmagrove key`: make API keys."""

from __future__ import annotations

import re
import secrets
from typing import Annotated

import typer

from server.cli.console import messages
from server.http.keys import KEY_NAME, hash_key

app = typer.Typer(help="Make API keys.", no_args_is_help=True)


@app.callback()
def key() -> None:
    """Make API keys."""


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, dot, dash, underscore.")],
) -> None:
    """Print a new random key, and the line that a keys file needs to know it.

    The key is kept nowhere and goes to stderr; the line goes to stdout: `kalmagrove key create me >> keys`.
    """
    if not re.fullmatch(KEY_NAME, name):
        raise typer.BadParameter(f"{name!r} is not 1 to 64 letters, digits, dots, dashes or underscores")
    secret = f"kg-{secrets.token_urlsafe(32)}"
    messages().print(f"key, shown this once: [bold]{secret}[/]", highlight=False, soft_wrap=True)
    typer.echo(f"{name}:{hash_key(secret).hex()}")
