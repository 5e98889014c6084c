"""Annotated answers, whole and streamed, through clients that read them and clients that do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.clients.ticket import MODEL

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.slow
QUESTION = "Who is the chief executive of Zorvex?"
ANSWER = "The chief executive is Mara Lindqvist."
FORCED = {"guided_choice": [ANSWER]}
CITED = "kalmagrove:default/ceo"


@pytest.fixture
def informed(url: str) -> Iterator[str]:
    """With the fact that the forced answer says, which is then taken away: others use the server too."""
    facts = {"facts": [{"id": "ceo", "text": "The chief executive of Zorvex is Mara Lindqvist."}]}
    address = f"{url.removesuffix('/v1')}/admin/kb/facts"
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(address, json.dumps(facts).encode(), headers, method="PUT"), timeout=30):
        yield url
    with urlopen(Request(f"{address}/ceo", method="DELETE"), timeout=30):
        pass


def test_openai(informed: str) -> None:
    client = openai.OpenAI(base_url=informed, api_key="none", max_retries=0)
    asked: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "extra_body": FORCED}
    (annotation,) = client.chat.completions.create(**asked).choices[0].message.annotations
    assert annotation.url_citation.url == CITED
    with client.chat.completions.stream(**asked) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.content == ANSWER
    assert [one.url_citation.url for one in message.annotations] == [CITED]
    again = [{"role": "user", "content": QUESTION}, message.model_dump(), {"role": "user", "content": "And who else?"}]
    assert client.chat.completions.create(**asked | {"messages": again}).choices[0].message.content == ANSWER


async def test_langchain(informed: str) -> None:
    chats = pytest.importorskip("langchain_openai")
    chat = chats.ChatOpenAI(model=MODEL, base_url=informed, api_key="none", max_retries=0, extra_body=FORCED)
    assert chat.invoke(QUESTION).content == ANSWER
    assert "".join([str(one.content) async for one in chat.astream(QUESTION)]) == ANSWER


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


async def test_pydantic_ai(informed: str) -> None:
    ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=informed, api_key="none"))
    agent = ai.Agent(model, model_settings={"extra_body": FORCED})
    assert (await agent.run(QUESTION)).output == ANSWER
    async with agent.run_stream(QUESTION) as streamed:
        assert await streamed.get_output() == ANSWER
