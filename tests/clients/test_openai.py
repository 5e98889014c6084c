"""The official client's own helpers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.ticket import MODEL, QUESTION, Ticket

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.slow
ONE_CALL = {"parallel_tool_calls": False}
"""A tiny model has no reason to stop calling."""
USER = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.mark.feature("openai-python", "chat", "streaming", "log probabilities")
def test_chat(client: openai.OpenAI) -> None:
    fields = {"model": MODEL, "messages": USER, "max_tokens": 8, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**fields)
    text = whole.choices[0].message.content
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
    parts = list(client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == text
    assert parts[-1].usage == whole.usage


@pytest.mark.feature("openai-python", "embeddings")
def test_embeddings(client: openai.OpenAI) -> None:
    """Asked for in base64, as the client does by itself."""
    found = client.embeddings.create(model="all-minilm-l6-v2", input=["a tram", "a ferry"])
    assert [len(one.embedding) for one in found.data] == [384, 384]


@pytest.mark.feature("openai-python", "forms")
def test_parse(client: openai.OpenAI) -> None:
    message = client.chat.completions.parse(model=MODEL, messages=USER, response_format=Ticket).choices[0].message
    assert isinstance(message.parsed, Ticket)


@pytest.mark.feature("openai-python", "forms")
def test_parse_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=USER, response_format=Ticket) as stream:
        for _ in stream:
            pass
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Ticket)


@pytest.mark.feature("openai-python", "tools", "streamed tools")
@pytest.mark.parametrize("streamed", [False, True])
def test_parse_calls(client: openai.OpenAI, streamed: bool) -> None:
    fields = {"model": MODEL, "messages": USER, "tools": [openai.pydantic_function_tool(Ticket)], **ONE_CALL}
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


@pytest.mark.feature("openai-python", "responses")
def test_a_response(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=8)
    assert first.status in ("completed", "incomplete")
    second = client.responses.create(
        model=MODEL, input="And for two?", previous_response_id=first.id, max_output_tokens=8
    )
    assert second.usage.input_tokens > first.usage.input_tokens
    assert client.responses.retrieve(second.id).output == second.output
    listed = list(client.responses.input_items.list(second.id, order="asc"))
    assert [item.role for item in listed] == ["user", "assistant", "user"]
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)


@pytest.mark.feature("openai-python", "responses")
def test_parse_a_response(client: openai.OpenAI) -> None:
    response = client.responses.parse(model=MODEL, input=QUESTION, text_format=Ticket)
    assert isinstance(response.output_parsed, Ticket)
    with client.responses.stream(model=MODEL, input=QUESTION, text_format=Ticket) as stream:
        types = [event.type for event in stream]
        assert isinstance(stream.get_final_response().output_parsed, Ticket)
    assert types[:2] == ["response.created", "response.in_progress"]
    assert types[-1] == "response.completed"


@pytest.mark.feature("openai-python", "responses")
@pytest.mark.parametrize("streamed", [False, True])
def test_calls_of_a_response(client: openai.OpenAI, streamed: bool) -> None:
    tool = openai.pydantic_function_tool(Ticket)["function"]
    fields = {"model": MODEL, "tools": [{"type": "function", **tool}], "tool_choice": "required", **ONE_CALL}
    if streamed:
        with client.responses.stream(input=QUESTION, **fields) as stream:
            for _ in stream:
                pass
            response = stream.get_final_response()
    else:
        response = client.responses.create(input=QUESTION, **fields)
    calls = [item for item in response.output if item.type == "function_call"]
    assert calls
    assert all(Ticket.model_validate_json(call.arguments) for call in calls)
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": "sold"} for call in calls]
    said = client.responses.create(
        model=MODEL, input=[*USER, *response.output, *results], max_output_tokens=4, store=False
    )
    assert said.output_text is not None
