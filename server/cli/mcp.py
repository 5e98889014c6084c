"""`kalmagrove mcp`: a running server's knowledge as tools for agents."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from server.cli.console import USAGE, CommandError, fail
from server.cli.kb_options import Key
from server.cli.options import DEFAULT_SERVER, AdminServer


def mcp(
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            envvar="KALMAGROVE_NAMESPACE",
            help="Namespace of tools that name none; default: where the key is at home.",
        ),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer no tool that edits.")] = False,
    server: AdminServer = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Speak the Model Context Protocol on stdin and stdout: tools to search, read, add, edit and delete facts."""
    if find_spec("mcp") is None:
        fail(CommandError("the MCP SDK is not installed: pip install 'kalmagrove[mcp]'", USAGE))
    from server.cli.mcp_tools import tool_server
    from server.cli.remote import connect

    try:
        with connect(server, key) as target:
            tool_server(target, namespace, read_only=read_only).run("stdio")
    except CommandError as error:
        fail(error)
