"""The official client's own helpers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.ticket import MODEL, QUESTION, Ticket

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.slow
USER = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_parse(client: openai.OpenAI) -> None:
    message = client.chat.completions.parse(model=MODEL, messages=USER, response_format=Ticket).choices[0].message
    assert isinstance(message.parsed, Ticket)


def test_parse_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=USER, response_format=Ticket) as stream:
        for _ in stream:
            pass
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Ticket)


@pytest.mark.parametrize("streamed", [False, True])
def test_parse_calls(client: openai.OpenAI, streamed: bool) -> None:
    fields = {"model": MODEL, "messages": USER, "tools": [openai.pydantic_function_tool(Ticket)]}
    if streamed:
        with client.chat.completions.stream(**fields, tool_choice="required") as stream:
            for _ in stream:
                pass
            answer = stream.get_final_completion()
    else:
        answer = client.chat.completions.parse(**fields, tool_choice="required")
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    assert all(isinstance(call.function.parsed_arguments, Ticket) for call in choice.message.tool_calls)
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sold"} for call in choice.message.tool_calls]
    said = client.chat.completions.create(
        model=MODEL, messages=[*USER, choice.message.model_dump(), *results], max_tokens=4
    )
    assert said.choices[0].message.content is not None
