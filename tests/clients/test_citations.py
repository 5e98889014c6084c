"""Annotated answers, whole and streamed, through clients that read them and clients that do not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.fact import ANSWER, CITED, FORCED, QUESTION
from tests.clients.ticket import MODEL

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.slow


@pytest.mark.feature("openai-python", "knowledge", "citations")
def test_openai(informed: str) -> None:
    client = openai.OpenAI(base_url=informed, api_key="none", max_retries=0)
    asked: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "extra_body": FORCED}
    completion = client.chat.completions.create(**asked)
    (annotation,) = completion.choices[0].message.annotations
    assert annotation.url_citation.url == CITED
    assert [fact["id"] for fact in completion.knowledge["facts"]] == ["ceo"]
    asked["extra_body"] = FORCED | {"knowledge": {"enabled": False}}
    assert client.chat.completions.create(**asked).choices[0].message.annotations == []
    asked["extra_body"] = FORCED
    with client.chat.completions.stream(**asked) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.content == ANSWER
    assert [one.url_citation.url for one in message.annotations] == [CITED]
    again = [{"role": "user", "content": QUESTION}, message.model_dump(), {"role": "user", "content": "And who else?"}]
    assert client.chat.completions.create(**asked | {"messages": again}).choices[0].message.content == ANSWER


@pytest.mark.feature("LangChain (Python)", "citations")
async def test_langchain(informed: str) -> None:
    chats = pytest.importorskip("langchain_openai")
    chat = chats.ChatOpenAI(model=MODEL, base_url=informed, api_key="none", max_retries=0, extra_body=FORCED)
    assert chat.invoke(QUESTION).content == ANSWER
    assert "".join([str(one.content) async for one in chat.astream(QUESTION)]) == ANSWER


@pytest.mark.feature("Agents SDK", "citations")
async def test_agents(informed: str) -> None:
    agents = pytest.importorskip("agents")
    agents.set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=informed, api_key="none", max_retries=0)
    model = agents.OpenAIChatCompletionsModel(model=MODEL, openai_client=client)
    agent = agents.Agent(name="Clerk", model=model, model_settings=agents.ModelSettings(extra_body=FORCED))
    assert (await agents.Runner.run(agent, QUESTION)).final_output == ANSWER
    streamed = agents.Runner.run_streamed(agent, QUESTION)
    async for _ in streamed.stream_events():
        pass
    assert streamed.final_output == ANSWER
    await client.close()


@pytest.mark.feature("pydantic-ai", "citations")
async def test_pydantic_ai(informed: str) -> None:
    ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=informed, api_key="none"))
    agent = ai.Agent(model, model_settings={"extra_body": FORCED})
    assert (await agent.run(QUESTION)).output == ANSWER
    async with agent.run_stream(QUESTION) as streamed:
        assert await streamed.get_output() == ANSWER
