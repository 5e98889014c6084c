"""OpenAI's API as its own client sees it, whatever engine serves."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import openai
import pytest

from tests.contract.conftest import CEO, MODEL, Contract, text

USER: Any = [{"role": "user", "content": CEO}]


def test_streaming_gives_what_the_whole_answer_says(contract: Contract) -> None:
    whole = contract.client.chat.completions.create(model=MODEL, messages=USER, max_tokens=12, temperature=0)
    chunks = list(
        contract.client.chat.completions.create(
            model=MODEL,
            messages=USER,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert told == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (chunks[-2].model_extra or {})["knowledge"]["facts"][0]["id"] == "staff-ceo"


def test_a_response_says_what_chat_says(contract: Contract) -> None:
    chat = contract.client.chat.completions.create(model=MODEL, messages=USER, max_tokens=12, temperature=0)
    fields: Any = {"model": MODEL, "input": CEO, "max_output_tokens": 12, "temperature": 0}
    whole = contract.client.responses.create(**fields)
    with contract.client.responses.stream(**fields) as stream:
        told = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert told == whole.output_text == chat.choices[0].message.content
    assert chat.usage is not None
    assert whole.usage is not None
    assert whole.usage.input_tokens == chat.usage.prompt_tokens
    assert (whole.model_extra or {})["knowledge"]["facts"][0]["id"] == "staff-ceo"
    after = contract.client.responses.create(**{**fields, "input": "Since when?"}, previous_response_id=whole.id)
    assert after.usage is not None
    assert after.usage.input_tokens > whole.usage.total_tokens


def test_logprobs(contract: Contract) -> None:
    answer = contract.client.chat.completions.create(
        model=MODEL, messages=USER, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    for token in logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob, "greedy takes the best"
        assert sum(math.exp(one.logprob) for one in token.top_logprobs) <= 1 + 1e-4
    assert "".join(token.token for token in logprobs.content) == answer.choices[0].message.content


def test_echo(contract: Contract) -> None:
    bare = contract.complete(
        "The capital of France is", echo=True, logprobs=1, max_tokens=2, knowledge={"enabled": False}
    )
    choice = bare["choices"][0]
    assert choice["text"].startswith("The capital of France is")
    logprobs = choice["logprobs"]["token_logprobs"]
    assert logprobs[0] is None
    assert all(isinstance(one, float) for one in logprobs[1:])


def test_echo_with_logprobs_over_mounted_facts(contract: Contract) -> None:
    """Log probabilities of the prompt: told where the engine can, refused by name where it cannot."""
    body = {"model": MODEL, "prompt": CEO, "max_tokens": 2, "echo": True, "logprobs": 1}
    response = contract.http.post("/v1/completions", json=body)
    if contract.engine == "vllm":
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "echo"
    else:
        assert response.status_code == 200
        assert response.json()["knowledge"]["facts"]


def test_stop_strings(contract: Contract) -> None:
    free = text(contract.chat(max_tokens=20, ignore_eos=True))
    stop = free[8:11]
    answer = contract.chat(max_tokens=20, ignore_eos=True, stop=["never said", stop])
    assert text(answer) == free[: free.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] < 20


@pytest.mark.slow
def test_seeds_repeat(contract: Contract) -> None:
    def drawn(seed: int) -> list[str]:
        answer = contract.chat("Write a story.", temperature=1.2, seed=seed, n=2, max_tokens=12)
        return [text(answer, choice) for choice in range(2)]

    assert drawn(7) == drawn(7)
    assert drawn(7)[0] != drawn(7)[1]
    assert drawn(7) != drawn(8)


def test_filters_leave_the_best(contract: Contract) -> None:
    greedy = text(contract.chat(max_tokens=8))
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert text(contract.chat(max_tokens=8, temperature=1.0, seed=1, **narrow)) == greedy


def test_logit_bias(contract: Contract) -> None:
    (token,) = contract.http.post("/tokenize", json={"model": MODEL, "prompt": " tram"}).json()["tokens"]
    answer = contract.chat(max_tokens=3, logit_bias={str(token): 100}, ignore_eos=True)
    assert text(answer) == " tram tram tram"


def test_penalties_count_what_was_said_and_not_what_is_mounted(contract: Contract) -> None:
    """The name is in a mounted fact, not in the question: a penalty must not drive it out of the answer."""
    assert "Mara Ellison" in text(contract.chat(repetition_penalty=1.15))
    (token,) = contract.http.post("/tokenize", json={"model": MODEL, "prompt": " tram"}).json()["tokens"]
    bias = {str(token): 10}
    plain = text(contract.chat(max_tokens=6, logit_bias=bias, ignore_eos=True, temperature=0))
    varied = text(
        contract.chat(
            max_tokens=6, logit_bias=bias, ignore_eos=True, temperature=0, frequency_penalty=2.0, presence_penalty=2.0
        )
    )
    assert plain.count(" tram") >= varied.count(" tram")


def test_several_prompts_and_choices(contract: Contract) -> None:
    body = {"model": MODEL, "prompt": ["One, two,", "Red, green,"], "n": 2, "max_tokens": 3, "seed": 1}
    answer = contract.http.post("/v1/completions", json=body).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"max_tokens": 100_000}, 400, "messages", "context_length_exceeded"),
        ({"knowledge": {"top_k": 65}}, 400, "knowledge.top_k", "invalid_value"),
        ({"temperature": 3}, 400, "temperature", None),
        ({"logit_bias": {"99999": 1}}, 400, "logit_bias[99999]", "invalid_value"),
        ({"knowledge": {"min_version": 10**6}}, 409, "knowledge.min_version", "knowledge_version_unavailable"),
        ({"n": 17}, 400, "n", "invalid_value"),
        ({"model": "another"}, 404, "model", "model_not_found"),
        ({"nonsense": 1}, 400, "nonsense", None),
    ],
    ids=str,
)
def test_refusals(contract: Contract, fields: dict[str, Any], status: int, param: str, code: str | None) -> None:
    response = contract.try_chat(**fields)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code


def test_errors_are_the_clients_own(contract: Contract) -> None:
    with pytest.raises(openai.NotFoundError):
        contract.client.chat.completions.create(model="another", messages=USER)
    with pytest.raises(openai.BadRequestError) as refused:
        contract.client.chat.completions.create(model=MODEL, messages=[])
    assert refused.value.param == "messages"


def test_what_is_too_long_is_refused_and_changes_nothing(contract: Contract) -> None:
    version = contract.http.get("/admin/kb/version").json()["version"]
    long = {"facts": [{"id": "long", "text": "word " * 400}]}
    response = contract.http.put("/admin/kb/facts", json=long)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "facts[0].text"
    assert contract.http.get("/admin/kb/version").json()["version"] == version
    assert contract.try_chat("word " * 9000).json()["error"]["code"] == "context_length_exceeded"


def test_embeddings(contract: Contract) -> None:
    answer = contract.client.embeddings.create(model="all-minilm-l6-v2", input=["a tram", "a ferry"])
    assert [len(one.embedding) for one in answer.data] == [384, 384]


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("streamed", [False, True])
def test_answers_of_a_form(contract: Contract, streamed: bool) -> None:
    """With facts mounted, whatever the model would rather say."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    fields: dict[str, Any] = {"model": MODEL, "messages": USER, "max_tokens": 60, "temperature": 0}
    create = contract.client.chat.completions.create
    if streamed:
        chunks = list(create(**fields, response_format=form, stream=True))
        told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    else:
        told = create(**fields, response_format=form).choices[0].message.content or ""
    person = json.loads(told)
    assert isinstance(person["name"], str)
    assert 0 <= person["age"] <= 99


def test_other_forms(contract: Contract) -> None:
    assert text(contract.chat(guided_choice=["tram", "ferry"])) in ("tram", "ferry")
    assert re.fullmatch("[0-9]{3}-[ab]", text(contract.chat(guided_regex="[0-9]{3}-[ab]")))
    answer = contract.chat(max_tokens=4, response_format={"type": "json_object"}, temperature=1, seed=1)
    assert text(answer).startswith("{")
    refused = contract.try_chat(guided_json={"properties": {"a": {"not": {}}}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "guided_json.properties.a")


def test_functions_are_called(contract: Contract) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": PERSON}}
    answer = contract.chat(tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=80)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "look_up"
    assert set(json.loads(call["function"]["arguments"])) == {"name", "age"}
    history = [*USER, choice["message"], {"role": "tool", "tool_call_id": call["id"], "content": "She is 40."}]
    assert contract.chat(messages=history, tools=[tool])["knowledge"]["facts"][0]["id"] == "staff-ceo"
