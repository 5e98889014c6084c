"""The official client's `.parse`, for answers and for calls, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from kb.encoder.minilm import MiniLMEncoder
from tests.server.live import listening
from tests.server.support import MODEL, QUESTION, build_services
from tests.tiny import tiny_checkpoint

USER: Any = [{"role": "user", "content": QUESTION}]


class Ticket(BaseModel):
    line: Literal["amber", "cobalt"]
    zones: Literal[1, 2, 3]
    child: bool


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, encoder: MiniLMEncoder) -> Iterator[openai.OpenAI]:
    directory = tmp_path_factory.mktemp("parse")
    services = build_services(directory, tiny_checkpoint(directory, max_position_embeddings=4096), encoder)
    with listening(services) as live, openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", timeout=60) as client:
        yield client


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer(client: openai.OpenAI, streamed: bool) -> None:
    if streamed:
        with client.chat.completions.stream(model=MODEL, messages=USER, response_format=Ticket) as stream:
            answer = stream.until_done().get_final_completion()
    else:
        answer = client.chat.completions.parse(model=MODEL, messages=USER, response_format=Ticket)
    assert isinstance(answer.choices[0].message.parsed, Ticket)


@pytest.mark.parametrize("streamed", [False, True])
def test_calls_and_the_history_that_follows(client: openai.OpenAI, streamed: bool) -> None:
    fields: Any = {
        "model": MODEL,
        "messages": USER,
        "tools": [openai.pydantic_function_tool(Ticket)],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    if streamed:
        with client.chat.completions.stream(**fields) as stream:
            answer = stream.until_done().get_final_completion()
    else:
        answer = client.chat.completions.parse(**fields)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls
    (call,) = message.tool_calls
    assert isinstance(call.function.parsed_arguments, Ticket)
    history: Any = [*USER, message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "sold"}]
    assert client.chat.completions.create(model=MODEL, messages=history, max_tokens=2).choices
