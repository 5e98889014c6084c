"""However much is wrong with a body, little is made of it: nobody else waits for that."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from server.http.schemas.admin import PutFacts
from server.http.schemas.base import MAX_BIASES, Request
from server.http.schemas.chat import ChatRequest
from server.http.schemas.completions import CompletionRequest
from server.http.schemas.messages import MAX_PARTS
from server.http.schemas.models import DetokenizeRequest, EmbeddingRequest, TokenizeRequest
from server.http.schemas.rerank import RerankRequest, ScoreRequest
from server.http.schemas.responses import ResponseRequest

MANY = 5000
FEW = 8
"""Branches of a union, each with an error of its own."""
MESSAGE = {"role": "user", "content": "a"}
UNKNOWN = {f"field{number}": 1 for number in range(MANY)}


def respond(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "input": "a", **fields}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [MESSAGE], **fields}


@pytest.mark.parametrize(
    ("request_type", "body"),
    [
        (ChatRequest, chat(**UNKNOWN)),
        (ChatRequest, chat(knowledge=UNKNOWN)),
        (ChatRequest, chat(messages=[0] * MANY)),
        (ChatRequest, chat(messages=[{**MESSAGE, **UNKNOWN}] * 1000)),
        (ChatRequest, chat(messages=[{"role": "user", "content": [{}] * 1000}] * 1000)),
        (ChatRequest, chat(logit_bias={f"x{number}": 1 for number in range(MANY)})),
        (ChatRequest, chat(logit_bias={str(number): 1e9 for number in range(MANY)})),
        (ChatRequest, chat(stop=[0] * MANY)),
        (ChatRequest, chat(response_format={"type": "json_schema", "json_schema": UNKNOWN})),
        (ChatRequest, chat(structured_outputs=UNKNOWN)),
        (ResponseRequest, respond(**UNKNOWN)),
        (ResponseRequest, respond(input=[0] * MANY)),
        (ResponseRequest, respond(input=[{**MESSAGE, **UNKNOWN}] * 1000)),
        (ResponseRequest, respond(input=[{"type": "function_call"}] * 1000)),
        (ResponseRequest, respond(input=[{"role": "user", "content": [{}] * 1000}] * 1000)),
        (ResponseRequest, respond(metadata={f"x{number}": 1 for number in range(MANY)})),
        (ResponseRequest, respond(text=UNKNOWN)),
        (ResponseRequest, respond(text={"format": {"type": "text", **UNKNOWN}})),
        (ResponseRequest, respond(tools=[{"type": "function", **UNKNOWN}] * 100)),
        (ResponseRequest, respond(tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [0] * MANY})),
        (ResponseRequest, respond(include=["x"] * MANY)),
        (RerankRequest, {"model": "m", "query": "a", "documents": [""] * MANY}),
        (RerankRequest, {"model": "m", "query": "a", "documents": [UNKNOWN] * 1000}),
        (ScoreRequest, {"model": "m", "text_1": [""] * MANY, "text_2": [0] * MANY}),
        (CompletionRequest, {"model": "m", "prompt": [-1] * MANY}),
        (CompletionRequest, {"model": "m", "prompt": [""] * MANY}),
        (CompletionRequest, {"model": "m", "prompt": [[-1] * MANY] * 128}),
        (EmbeddingRequest, {"model": "m", "input": [""] * MANY}),
        (TokenizeRequest, {"messages": [{}] * MANY}),
        (TokenizeRequest, UNKNOWN),
        (DetokenizeRequest, {"tokens": [-1] * MANY}),
        (PutFacts, {"facts": [{"id": 1, "text": 2}] * MANY}),
        (PutFacts, {"facts": [{"id": "a", "text": "b", **UNKNOWN}] * 100}),
    ],
)
def test_few_errors_are_made_of_many_bad_items(request_type: type[Request], body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        request_type.model_validate(body)
    assert refused.value.error_count() <= FEW


def test_the_first_unknown_field_is_named() -> None:
    with pytest.raises(ValidationError) as refused:
        ChatRequest.model_validate(chat(user="u", first=1, tools=[], second=2))
    assert [error["loc"] for error in refused.value.errors()] == [("first",)]


def test_too_many_biases_are_told_as_such() -> None:
    bias = {str(token): 1.0 for token in range(MAX_BIASES)}
    assert len(ChatRequest.model_validate(chat(logit_bias=bias)).logit_bias or ()) == MAX_BIASES
    with pytest.raises(ValidationError, match=f"at most {MAX_BIASES} items"):
        ChatRequest.model_validate(chat(logit_bias={**bias, "x": 1.0}))


@pytest.mark.parametrize("request_type", [ChatRequest, TokenizeRequest])
def test_parts_are_bounded_over_all_messages(request_type: type[Request]) -> None:
    """In a body of two megabytes there is room for 80,000, which are all right one by one."""
    part = {"type": "text", "text": ""}
    messages = [{"role": "user", "content": [part] * (MAX_PARTS // 8)}] * 8
    model = {"model": "m"}
    request_type.model_validate({**model, "messages": messages})
    with pytest.raises(ValidationError, match=f"at most {MAX_PARTS}") as refused:
        request_type.model_validate({**model, "messages": [*messages, {"role": "user", "content": [part]}]})
    assert [error["loc"] for error in refused.value.errors()] == [("messages",)]
