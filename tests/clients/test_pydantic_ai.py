"""pydantic-ai's output types."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.ticket import MODEL, QUESTION, Ticket

pydantic_ai = pytest.importorskip("pydantic_ai")
models = pytest.importorskip("pydantic_ai.models.openai")
providers = pytest.importorskip("pydantic_ai.providers.openai")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("output", [Ticket, pydantic_ai.NativeOutput(Ticket)], ids=["tool", "native"])
async def test_output_types(url: str, output: Any) -> None:
    provider = providers.OpenAIProvider(base_url=url, api_key="none")
    agent = pydantic_ai.Agent(models.OpenAIChatModel(MODEL, provider=provider), output_type=output)
    assert isinstance((await agent.run(QUESTION)).output, Ticket)
    async with agent.run_stream(QUESTION) as run:
        assert isinstance(await run.get_output(), Ticket)
