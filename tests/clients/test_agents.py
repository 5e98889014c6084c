"""OpenAI's Agents SDK, on chat completions."""

from __future__ import annotations

import pytest

from tests.clients.ticket import MODEL, QUESTION, Ticket

agents = pytest.importorskip("agents")
openai = pytest.importorskip("openai")
pytestmark = pytest.mark.slow


async def test_an_agent_with_an_output_type(url: str) -> None:
    agents.set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    model = agents.OpenAIChatCompletionsModel(model=MODEL, openai_client=client)
    agent = agents.Agent(name="Seller", instructions="Sell tickets.", model=model, output_type=Ticket)
    assert isinstance((await agents.Runner.run(agent, QUESTION)).final_output, Ticket)
    await client.close()
