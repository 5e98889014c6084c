"""What clients send back, or send along, that says nothing: it refuses no request and changes no answer."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from server.http.schemas.chat import ChatRequest
from server.http.schemas.foreign import BOOKKEEPING, HARMLESS, IGNORED
from tests.server.support import QUESTION, Service, chat_body, error

TURN = {"role": "user", "content": QUESTION}
ANSWER = {"role": "assistant", "content": "It is so."}
HISTORY = [{"role": "user", "content": "Is it so?"}, ANSWER, TURN]
EMPTY = st.sampled_from([None, [], {}, "", False])


def request(messages: list[dict[str, Any]], **fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": messages, **fields})


@pytest.mark.parametrize(
    "members",
    [
        {"tool_calls": None, "function_call": None, "audio": None, "refusal": None, "annotations": []},
        {"tool_calls": [], "parsed": {"a": 1}, "reasoning_content": "Hm.", "provider_specific_fields": {"x": 1}},
        {"annotations": [{"type": "url_citation"}], "id": "msg-1", "cache_control": {"type": "ephemeral"}},
        {"content": [{"type": "text", "text": "It is so.", "annotations": [], "cache_control": {"type": "ephemeral"}}]},
        {"content": None, "refusal": "It is so."},
        {"content": [{"type": "refusal", "refusal": "It is so."}]},
    ],
    ids=lambda members: ",".join(members),
)
async def test_history_as_clients_keep_it(service: Service, members: dict[str, Any]) -> None:
    plain = await service.chat(messages=HISTORY)
    same = await service.chat(messages=[HISTORY[0], {**ANSWER, **members}, HISTORY[2]])
    assert same.status_code == 200, same.text
    assert same.json()["choices"] == plain.json()["choices"]
    assert same.json()["usage"] == plain.json()["usage"]


async def test_our_own_answer_can_be_sent_back_as_it_is(service: Service) -> None:
    message = (await service.chat()).json()["choices"][0]["message"]
    answer = await service.chat(messages=[TURN, message, TURN])
    assert answer.status_code == 200, answer.text


@given(
    st.dictionaries(st.text(min_size=1), EMPTY), st.dictionaries(st.sampled_from(sorted(BOOKKEEPING)), st.integers())
)
def test_members_that_say_nothing_are_passed_over(empty: dict[str, Any], kept: dict[str, Any]) -> None:
    message = {**empty, **kept, **ANSWER}
    assert request([message]).messages == request([ANSWER]).messages


def test_members_that_say_something_unknown_are_named() -> None:
    with pytest.raises(ValidationError) as refused:
        request([{**ANSWER, "mood": "bad", "other": None}])
    assert [one["loc"] for one in refused.value.errors()] == [("messages", 0, "mood")]


async def test_fields_that_cannot_change_the_answer(service: Service) -> None:
    plain = await service.chat()
    harmless = {name: values[0] for name, values in HARMLESS.items() if values}
    ignored = dict.fromkeys(IGNORED, "anything")
    same = await service.chat(**{**harmless, **ignored, "unheard_of": None, "top_logprobs": 0})
    assert same.status_code == 200, same.text
    assert same.json()["choices"] == plain.json()["choices"]


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_the_same_fields_are_refused_by_name_where_they_would(name: str) -> None:
    with pytest.raises(ValidationError) as refused:
        request([TURN], **{name: {"else": True}})
    for told in refused.value.errors():
        assert name in (told.get("ctx", {}).get("param"), *told["loc"])


async def test_integral_floats_are_integers(service: Service) -> None:
    fields = {"n": 1.0, "max_tokens": 3.0, "seed": 5.0, "top_k": 7.0, "knowledge": {"top_k": 2.0, "min_version": 0.0}}
    response = await service.chat(**fields)
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] == 3
    assert error(await service.chat(n=1.5))["param"] == "n"
    assert error(await service.chat(n=True))["param"] == "n"


async def test_the_same_limit_twice_is_one(service: Service) -> None:
    assert (await service.chat(max_tokens=3, max_completion_tokens=3)).status_code == 200
    assert error(await service.chat(max_tokens=3, max_completion_tokens=4))["param"] == "max_tokens"


@pytest.mark.parametrize("knowledge", [{"enabled": False}, {"min_score": -1}])
async def test_an_answer_is_gone_on_with(informed: Service, knowledge: dict[str, Any]) -> None:
    """The answer's beginning given, the rest is what it was. In letters, which are tokens of this model."""
    letters = (await informed.http.post("/tokenize", json={"prompt": string.ascii_letters})).json()["tokens"]
    fields = {"knowledge": knowledge, "logit_bias": {str(token): 100 for token in letters}}
    whole = (await informed.chat(max_tokens=8, **fields)).json()
    told = whole["choices"][0]["message"]["content"]
    messages = [TURN, {"role": "assistant", "content": told[:3]}]
    fields |= {"continue_final_message": True, "add_generation_prompt": False}
    rest = (await informed.chat(messages=messages, max_tokens=5, **fields)).json()
    assert told[:3] + rest["choices"][0]["message"]["content"] == told
    assert rest["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"] + 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
    ],
    ids=str,
)
async def test_nothing_to_go_on_with(service: Service, fields: dict[str, Any], param: str) -> None:
    response = await service.http.post("/v1/chat/completions", json=chat_body(**fields))
    assert (response.status_code, error(response)["param"]) == (400, param)
