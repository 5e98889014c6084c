"""OpenAI's Agents SDK: on its defaults, which are /v1/responses, and on chat completions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.clients.fact import REFUSED, UNHEARD_OF
from tests.clients.ticket import MODEL, QUESTION, Ticket

agents = pytest.importorskip("agents")
openai = pytest.importorskip("openai")
pytestmark = pytest.mark.slow
INSTRUCTIONS = "Sell tickets."


@pytest.fixture
async def client(url: str) -> AsyncIterator[Any]:
    agents.set_tracing_disabled(True)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        agents.set_default_openai_client(client, use_for_tracing=False)
        yield client


@pytest.mark.feature("Agents SDK", "forms", "streaming", "responses")
async def test_an_agent_with_an_output_type(client: Any) -> None:
    agent = agents.Agent(name="Seller", instructions=INSTRUCTIONS, model=MODEL, output_type=Ticket)
    assert isinstance((await agents.Runner.run(agent, QUESTION)).final_output, Ticket)
    run = agents.Runner.run_streamed(agent, QUESTION)
    async for _ in run.stream_events():
        pass
    assert isinstance(run.final_output, Ticket)


@pytest.mark.feature("Agents SDK", "tools", "streamed tools", "responses")
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("by_id", [False, True])
async def test_an_agent_with_a_tool(client: Any, streamed: bool, by_id: bool) -> None:
    """It calls until it says something of the output type: each time all is sent back, or only what is new."""
    sold: list[Ticket] = []

    @agents.function_tool
    def sell(ticket: Ticket) -> str:
        """Sell a ticket."""
        sold.append(ticket)
        return "sold"

    agent = agents.Agent(
        name="Seller",
        instructions=INSTRUCTIONS,
        model=MODEL,
        tools=[sell],
        output_type=Ticket,
        model_settings=agents.ModelSettings(tool_choice="required", parallel_tool_calls=False),
    )
    fields = {"auto_previous_response_id": by_id, "max_turns": 40}
    if streamed:
        run = agents.Runner.run_streamed(agent, QUESTION, **fields)
        async for _ in run.stream_events():
            pass
    else:
        run = await agents.Runner.run(agent, QUESTION, **fields)
    assert sold
    assert isinstance(run.final_output, Ticket)


@pytest.mark.feature("Agents SDK", "chat", "forms")
async def test_on_chat_completions(client: Any) -> None:
    model = agents.OpenAIChatCompletionsModel(model=MODEL, openai_client=client)
    agent = agents.Agent(name="Seller", instructions=INSTRUCTIONS, model=model, output_type=Ticket)
    assert isinstance((await agents.Runner.run(agent, QUESTION)).final_output, Ticket)


@pytest.mark.feature("Agents SDK", "knowledge")
async def test_knowledge(client: Any) -> None:
    settings = agents.ModelSettings(extra_body=UNHEARD_OF)
    with pytest.raises(openai.OpenAIError, match=REFUSED):
        await agents.Runner.run(agents.Agent(name="Clerk", model=MODEL, model_settings=settings), QUESTION)
