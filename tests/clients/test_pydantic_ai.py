"""pydantic-ai's output types."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.fact import REFUSED, UNHEARD_OF
from tests.clients.ticket import MODEL, QUESTION, Ticket

pydantic_ai = pytest.importorskip("pydantic_ai")
models = pytest.importorskip("pydantic_ai.models.openai")
providers = pytest.importorskip("pydantic_ai.providers.openai")
pytestmark = pytest.mark.slow


@pytest.mark.feature("pydantic-ai", "forms", "tools", "streamed tools", "responses")
@pytest.mark.parametrize("output", [Ticket, pydantic_ai.NativeOutput(Ticket)], ids=["tool", "native"])
@pytest.mark.parametrize("kind", ["OpenAIChatModel", "OpenAIResponsesModel"])
async def test_output_types(url: str, output: Any, kind: str) -> None:
    provider = providers.OpenAIProvider(base_url=url, api_key="none")
    model = getattr(models, kind)(MODEL, provider=provider)
    agent = pydantic_ai.Agent(model, output_type=output, model_settings={"parallel_tool_calls": False})
    assert isinstance((await agent.run(QUESTION)).output, Ticket)
    async with agent.run_stream(QUESTION) as run:
        assert isinstance(await run.get_output(), Ticket)


@pytest.mark.feature("pydantic-ai", "chat", "streaming", "knowledge")
async def test_plain_answers(url: str) -> None:
    model = models.OpenAIChatModel(MODEL, provider=providers.OpenAIProvider(base_url=url, api_key="none"))
    agent = pydantic_ai.Agent(model, model_settings={"max_tokens": 8, "temperature": 0})
    said = (await agent.run(QUESTION)).output
    async with agent.run_stream(QUESTION) as run:
        assert [part async for part in run.stream_text(delta=False)][-1] == said
    with pytest.raises(pydantic_ai.exceptions.ModelHTTPError, match=REFUSED):
        await agent.run(QUESTION, model_settings={"extra_body": UNHEARD_OF})
