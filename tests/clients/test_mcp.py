"""The MCP SDK's client, over stdio: it starts `kalmagrove mcp`, which speaks to the server."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.clients.conftest import ROOT, SERVING

mcp = pytest.importorskip("mcp")
pytestmark = pytest.mark.slow


def agent(url: str, *options: str) -> Any:
    address = url.removesuffix("/v1")
    return mcp.Client(
        mcp.StdioServerParameters(
            command=SERVING,
            args=["-m", "server.cli", "mcp", "--server", address, *options],
            env={name: value for name, value in os.environ.items() if not name.startswith("KALMAGROVE_")},
            cwd=ROOT,
        )
    )


async def called(client: Any, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


async def test_an_agent_edits_what_the_server_knows(url: str) -> None:
    async with agent(url) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert tools == {
            *("search", "get", "history", "documents"),
            *("add", "edit", "delete", "add_document", "delete_document"),
        }
        added = await called(client, "add", text="The chief executive of Zorvex is Mara Lindqvist.")
        found = await called(client, "search", query="Who is the chief executive of Zorvex?")
        assert found["result"][0]["id"] == added["id"]
        await called(client, "edit", id=added["id"], text="The chief executive of Zorvex is Jonas Wetherby.")
        late = await client.call_tool("edit", {"id": added["id"], "text": "No.", "if_version": added["version"]})
        assert late.is_error
        assert "is expected at version" in late.content[0].text
        await called(client, "delete", id=added["id"])
        assert len((await called(client, "history", id=added["id"]))["result"]) == 3


async def test_a_server_that_is_not_there_is_told_by_the_tool(url: str) -> None:
    async with agent("http://127.0.0.1:9") as client:
        result = await client.call_tool("search", {"query": "tram"})
        assert result.is_error
        assert "no server" in result.content[0].text
