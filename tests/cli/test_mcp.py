"""`kalmagrove mcp`: its tools through the SDK's own client, in memory, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.cli.remote import connect
from server.http.keys import Keys, hash_key
from tests.server.live import Live, listening
from tests.server.support import build_services

mcp = pytest.importorskip("mcp", reason="the MCP SDK is not installed")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("mcp")
    lines = [f"{name}:{hash_key(f'kg-{name}').hex()} read=acme edit={name}" for name in ("acme", "other")]
    (directory / "keys").write_text("\n".join(lines))
    keys = Keys.read(directory / "keys", directory / "keys")
    with listening(build_services(directory, tiny, MiniLMEncoder(), keys)) as live:
        yield live


@asynccontextmanager
async def agent_of(url: str, key: str | None = "kg-acme", **options: Any) -> AsyncIterator[Any]:
    from server.cli.mcp_tools import tool_server

    with connect(url, key) as target:
        async with mcp.Client(tool_server(target, **options)) as client:
            yield client


async def called(agent: Any, tool: str, **arguments: Any) -> Any:
    result = await agent.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


async def refused(agent: Any, tool: str, **arguments: Any) -> str:
    result = await agent.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)


async def test_a_fact_is_added_found_changed_and_deleted(live: Live) -> None:
    async with agent_of(live.url) as agent:
        added = await called(
            agent, "add", text="The chief executive of Zorvex is Mara.", id="ceo", metadata={"by": "us"}
        )
        assert (added["id"], added["namespace"]) == ("ceo", "acme")  # where the key is at home
        found = (await called(agent, "search", query="Who leads Zorvex?"))["result"]
        assert [(one["id"], one["version"]) for one in found] == [("ceo", added["version"])]
        edited = await called(agent, "edit", id="ceo", text="The chief executive of Zorvex is Jonas.")
        held = await called(agent, "get", id="ceo")
        assert (held["text"][-6:], held["metadata"], held["version"]) == ("Jonas.", {"by": "us"}, edited["version"])
        deleted = await called(agent, "delete", id="ceo", if_version=edited["version"])
        past = (await called(agent, "history", id="ceo"))["result"]
        assert [one["version"] for one in past] == [deleted["version"], edited["version"], added["version"]]
        assert (await called(agent, "history", limit=1))["result"][0]["version"] == deleted["version"]


async def test_a_document_is_split_searched_with_a_filter_and_deleted(live: Live) -> None:
    text = "# Refunds\n\nTickets are given back at the desk.\n\n# Lost\n\nBags are kept in the hall of the depot."
    async with agent_of(live.url) as agent:
        added = await called(agent, "add_document", id="book", text=text, format="markdown", metadata={"year": 1990})
        assert added == {"id": "book", "namespace": "acme", "facts": 2, "encoded": 2}
        (held,) = (await called(agent, "documents"))["result"]
        assert (held["id"], held["title"], held["facts"]) == ("book", "Refunds", 2)
        await called(agent, "add", text="Tickets are given back at the other desk.", id="loose")
        where = {"document.id": {"eq": "book"}, "year": {"lt": 2000}}
        found = (await called(agent, "search", query="Where are tickets given back?", filter=where))["result"]
        assert found
        assert all(one["metadata"]["document"]["id"] == "book" for one in found)
        told = await refused(agent, "search", query="tickets", filter={"year": {"near": 1990}})
        assert "near" in told
        assert (await called(agent, "delete_document", id="book", if_version=held["version"]))["deleted"] == 2
        assert (await called(agent, "documents"))["result"] == []
        assert "book" in await refused(agent, "delete_document", id="book")
        await called(agent, "delete", id="loose")


async def test_what_the_server_refuses_the_agent_is_told(live: Live) -> None:
    async with agent_of(live.url) as agent:
        added = await called(agent, "add", text="A tram.", id="tram")
        assert "is expected not to exist" in await refused(agent, "add", text="Another tram.", id="tram")
        assert "is expected at version" in await refused(agent, "edit", id="tram", text="A bus.", if_version=999)
        assert "There is no fact 'bus'" in await refused(agent, "edit", id="bus", text="A bus.")
        assert "no fact 'bus'" in await refused(agent, "delete", id="bus")
        assert "may not edit namespace 'other'" in await refused(agent, "add", text="Theirs.", namespace="other")
        assert (await called(agent, "search", query="tram", namespace="other"))["result"] == []
        assert "query" in await refused(agent, "search", query="")
        assert (await called(agent, "get", id="tram"))["version"] == added["version"]


async def test_a_server_that_is_not_there_and_a_key_that_is_none(live: Live) -> None:
    for url, key, told in (
        (live.url, "kg-guessed", "The key is not known."),
        ("http://127.0.0.1:9", None, "no server"),
    ):
        async with agent_of(url, key) as agent:
            assert told in await refused(agent, "search", query="tram")


async def test_an_agent_that_may_only_read_has_no_other_tools(live: Live) -> None:
    async with agent_of(live.url, read_only=True) as agent:
        tools = (await agent.list_tools()).tools
    assert {tool.name for tool in tools} == {"search", "get", "history", "documents"}
    assert all(tool.description and tool.annotations.read_only_hint for tool in tools)
