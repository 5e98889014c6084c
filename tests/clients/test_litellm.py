"""LiteLLM, which maps OpenAI's fields itself before it asks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.fact import ANSWER, CITED, FORCED, REFUSED, UNHEARD_OF
from tests.clients.fact import QUESTION as WHO
from tests.clients.ticket import MODEL, QUESTION, Ticket

litellm = pytest.importorskip("litellm")
pytestmark = pytest.mark.slow
USER = [{"role": "user", "content": QUESTION}]
TOOL = {"type": "function", "function": {"name": "Ticket", "parameters": Ticket.model_json_schema()}}


def asked(url: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": f"openai/{MODEL}",
        "api_base": url,
        "api_key": "none",
        "max_retries": 0,
        "messages": USER,
        **fields,
    }


@pytest.mark.feature("LiteLLM", "chat", "streaming")
def test_chat(url: str) -> None:
    fields = asked(url, max_tokens=8, temperature=0)
    said = litellm.completion(**fields).choices[0].message.content
    parts = list(litellm.completion(**fields, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == said


@pytest.mark.feature("LiteLLM", "forms")
def test_a_response_format(url: str) -> None:
    answer = litellm.completion(**asked(url, response_format=Ticket))
    assert Ticket.model_validate_json(answer.choices[0].message.content)


@pytest.mark.feature("LiteLLM", "tools", "streamed tools")
@pytest.mark.parametrize("streamed", [False, True])
def test_tools(url: str, streamed: bool) -> None:
    fields = asked(url, tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    answer = litellm.completion(**fields, stream=streamed)
    if streamed:
        answer = litellm.stream_chunk_builder(list(answer), messages=USER)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert all(Ticket.model_validate_json(call.function.arguments) for call in message.tool_calls)
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sold"} for call in message.tool_calls]
    again = asked(url, messages=[*USER, message.model_dump(), *results], max_tokens=4)
    assert litellm.completion(**again).choices[0].message.content is not None


@pytest.mark.feature("LiteLLM", "embeddings")
def test_embeddings(url: str) -> None:
    found = litellm.embedding(model="openai/all-minilm-l6-v2", input=["a tram"], api_base=url, api_key="none")
    assert len(found.data[0]["embedding"]) == 384


@pytest.mark.feature("LiteLLM", "responses")
def test_responses(url: str) -> None:
    fields = {"model": f"openai/{MODEL}", "api_base": url, "api_key": "none", "input": QUESTION, "max_output_tokens": 8}
    assert litellm.responses(**fields).status in ("completed", "incomplete")
    types = [event.type for event in litellm.responses(**fields, stream=True)]
    assert types[0] == "response.created"
    assert types[-1] in ("response.completed", "response.incomplete")


@pytest.mark.feature("LiteLLM", "knowledge", "citations")
def test_knowledge(informed: str) -> None:
    messages = [{"role": "user", "content": WHO}]
    message = litellm.completion(**asked(informed, messages=messages, extra_body=FORCED)).choices[0].message
    assert message.content == ANSWER
    assert [one["url_citation"]["url"] for one in message.annotations] == [CITED]
    with pytest.raises(litellm.exceptions.BadRequestError, match=REFUSED):
        litellm.completion(**asked(informed, extra_body=UNHEARD_OF))
