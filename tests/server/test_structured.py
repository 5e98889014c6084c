"""Answers of a form, and calls of functions, over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import jsonschema
import pytest
import pytest_asyncio

from kb.encoder.minilm import MiniLMEncoder
from server.engine.decoding.trial import Trial
from server.engine.protocol import GrammarTooExpensive
from server.service.errors import DeadlinePassed
from server.service.forms import Form
from tests.server.support import FACTS, MODEL, QUESTION, Service, build_services, error, events, running
from tests.tiny import tiny_checkpoint

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "maximum": 99, "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FARE = {
    "type": "function",
    "function": {
        "name": "fare",
        "description": "What a ticket costs.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"line": {"enum": ["amber", "cobalt"]}},
            "required": ["line"],
            "additionalProperties": False,
        },
    },
}
STOPS = {"type": "function", "function": {"name": "list_stops"}}
NAMED = {"type": "function", "function": {"name": "fare"}}
LONG = {"max_tokens": 400}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def informed(tmp_path_factory: pytest.TempPathFactory, encoder: MiniLMEncoder) -> AsyncIterator[Service]:
    """A context long enough for functions that are described byte by byte."""
    directory = tmp_path_factory.mktemp("structured")
    long = tiny_checkpoint(directory, max_position_embeddings=4096)
    async with running(build_services(directory, long, encoder)) as service:
        await service.put(**FACTS)
        yield service
        await service.engine.audit()


def json_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}


FORMS: list[tuple[dict[str, Any], Any]] = [
    ({"response_format": json_schema(SCHEMA)}, lambda text: jsonschema.validate(json.loads(text), SCHEMA)),
    ({"guided_json": SCHEMA}, lambda text: jsonschema.validate(json.loads(text), SCHEMA)),
    ({"guided_json": json.dumps(SCHEMA)}, lambda text: jsonschema.validate(json.loads(text), SCHEMA)),
    ({"structured_outputs": {"json": SCHEMA}}, lambda text: jsonschema.validate(json.loads(text), SCHEMA)),
    ({"guided_regex": "[0-9]{2}/[a-c]"}, lambda text: re.fullmatch("[0-9]{2}/[a-c]", text).group()),
    ({"guided_choice": ["yes", "no"]}, lambda text: ["yes", "no"].index(text)),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, lambda text: ["yes", "no"].index(text)),
    ({"guided_grammar": 'root ::= "a" | "b"'}, lambda text: ["a", "b"].index(text)),
]


@pytest.mark.parametrize(
    ("fields", "check"), FORMS, ids=lambda value: next(iter(value), "") if isinstance(value, dict) else ""
)
async def test_forms(informed: Service, fields: dict[str, Any], check: Any) -> None:
    """Whole and streamed, greedy and drawn, in both endpoints. `ignore_eos`, which support.py sends, does no harm."""
    for sampling in ({}, {"temperature": 1, "seed": 3}):
        (choice,) = (await informed.chat(**LONG, **fields, **sampling)).json()["choices"]
        assert choice["finish_reason"] == "stop"
        check(choice["message"]["content"])
    chunks = events(await informed.chat(**LONG, **fields, stream=True))
    check("".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks))
    body = {"model": MODEL, "prompt": QUESTION, **LONG, **fields}
    check((await informed.http.post("/v1/completions", json=body)).json()["choices"][0]["text"])


async def test_some_json_object(informed: Service) -> None:
    answer = (
        await informed.chat(max_tokens=900, temperature=1, seed=1, response_format={"type": "json_object"})
    ).json()
    choice = answer["choices"][0]
    assert choice["message"]["content"].startswith("{")
    assert choice["finish_reason"] == "length" or isinstance(json.loads(choice["message"]["content"]), dict)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "invalid_value"),
        ({"response_format": json_schema([])}, "response_format.json_schema.schema", "invalid_value"),
        (
            {"response_format": json_schema({"properties": {"a": {"items": {"uniqueItems": True}}}})},
            "response_format.json_schema.schema.properties.a.items",
            "invalid_grammar",
        ),
        ({"guided_json": "{"}, "guided_json", "invalid_value"),
        ({"guided_json": "[]"}, "guided_json", "invalid_value"),
        ({"guided_json": {"type": "strang"}}, "guided_json", "invalid_grammar"),
        ({"guided_regex": "("}, "guided_regex", "invalid_grammar"),
        ({"guided_choice": []}, "guided_choice", "invalid_value"),
        ({"guided_grammar": "start: ("}, "guided_grammar", "invalid_grammar"),
        ({"guided_json": SCHEMA, "guided_regex": "a"}, "guided_regex", "invalid_value"),
        ({"guided_json": {"enum": ["x" * 1000] * 400}}, "guided_json", "invalid_grammar"),
        ({"tools": [FARE, FARE]}, "tools[1].function.name", "invalid_value"),
        ({"tools": [{"type": "search"}]}, "tools[0].type", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
        ({"tools": [FARE], "tool_choice": "sometimes"}, "tool_choice", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": NAMED}, "tool_choice.function.name", "invalid_value"),
        (
            {"tools": [STOPS, {"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]},
            "tools[1].function.parameters",
            "invalid_grammar",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "y", "tool_call_id": "1"}]},
            "messages[1].tool_call_id",
            "invalid_value",
        ),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [
            {"id": "1", "function": {"name": "f"}}]}]}, "messages[0].tool_calls", "invalid_value"),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
async def test_refusals(informed: Service, fields: dict[str, Any], param: str, code: str) -> None:
    steps = informed.engine.stats().steps
    response = await informed.chat(**fields)
    assert (response.status_code, error(response)["param"], error(response)["code"]) == (400, param, code)
    assert informed.engine.stats().steps == steps


async def test_a_form_that_cannot_be_kept_to_is_an_error(informed: Service) -> None:
    many = {f"p{number}": {"type": "string", "pattern": f"^[a-z]{{{number}}}$"} for number in range(700)}
    response = await informed.chat(guided_json={"type": "object", "properties": many})
    assert (response.status_code, error(response)["code"]) == (400, "grammar_too_complex")


def called(choice: dict[str, Any]) -> list[tuple[str, Any]]:
    """Names and arguments of a whole answer's calls, whose shape is checked."""
    calls = choice["message"]["tool_calls"]
    assert all(call.keys() == {"id", "type", "function"} and call["type"] == "function" for call in calls)
    assert len({call["id"] for call in calls}) == len(calls)
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


@pytest.mark.parametrize(("choice", "parallel"), [("required", False), (NAMED, True), (NAMED, None)], ids=str)
async def test_calls_that_must_be_made(informed: Service, choice: Any, parallel: bool | None) -> None:
    """One by name is made once, whatever else there might be."""
    fields = {"tools": [FARE, STOPS], "tool_choice": choice, "parallel_tool_calls": parallel, **LONG}
    whole = (await informed.chat(**fields)).json()
    (answer,) = whole["choices"]
    assert answer["finish_reason"] == "tool_calls"
    assert answer["message"]["content"] is None
    ((name, arguments),) = called(answer)
    assert name == "fare" or choice == "required"
    assert name != "fare" or arguments["line"] in ("amber", "cobalt")
    chunks = events(await informed.chat(**fields, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert whole["knowledge"]["facts"]
    deltas = [part for chunk in chunks[:-1] for part in chunk["choices"][0]["delta"].get("tool_calls", ())]
    first, *rest = deltas
    assert first.keys() == {"index", "id", "type", "function"}
    assert first["function"] == {"name": name, "arguments": ""}
    assert all(one.keys() == {"index", "function"} and one["function"].keys() == {"arguments"} for one in rest)
    assert json.loads("".join(one["function"]["arguments"] for one in rest)) == arguments
    assert not any(chunk["choices"][0]["delta"].get("content") for chunk in chunks[:-1])


async def test_what_need_not_be_called(informed: Service) -> None:
    """The model's own choice, or none at all: then the functions are not even shown."""
    plain = (await informed.chat()).json()
    none = (await informed.chat(tools=[FARE], tool_choice="none")).json()
    assert none["choices"] == plain["choices"]
    assert none["usage"] == plain["usage"]
    auto = (await informed.chat(tools=[FARE])).json()
    assert auto["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]
    assert "tool_calls" not in auto["choices"][0]["message"]
    assert auto["choices"][0]["finish_reason"] == "length"


async def test_an_answer_of_a_form_beside_tools(informed: Service) -> None:
    fields = {"tools": [FARE], "response_format": json_schema(SCHEMA), **LONG}
    (choice,) = (await informed.chat(**fields)).json()["choices"]
    if choice["finish_reason"] == "tool_calls":
        assert called(choice)
    else:
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)


async def test_what_was_called_and_answered_is_the_history(informed: Service) -> None:
    """Our own message given back as it is; what the user asked is still what is looked up."""
    fields = {"tools": [FARE], "tool_choice": "required", **LONG}
    message = (await informed.chat(**fields)).json()["choices"][0]["message"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "4 crowns"} for call in message["tool_calls"]]
    messages = [{"role": "user", "content": QUESTION}, message, *results]
    answer = await informed.chat(messages=messages, tools=[FARE])
    assert answer.status_code == 200, answer.text
    assert answer.json()["knowledge"]["facts"][0]["id"] == "ceo"


async def test_several_answers_have_calls_of_their_own(informed: Service) -> None:
    fields = {"tools": [FARE, STOPS], "tool_choice": "required", "n": 3, "temperature": 1.5, "seed": 4, **LONG}
    whole = (await informed.chat(**fields)).json()["choices"]
    chunks = events(await informed.chat(**fields, stream=True))
    for index, choice in enumerate(whole):
        arguments: dict[int, str] = {}
        for part in (part for chunk in chunks for part in chunk["choices"] if part["index"] == index):
            for call in part["delta"].get("tool_calls", ()):
                arguments[call["index"]] = arguments.get(call["index"], "") + call["function"]["arguments"]
        assert [json.loads(text) for text in arguments.values()] == [said for _, said in called(choice)]


async def test_logprobs_of_a_call_are_all_told(informed: Service) -> None:
    fields = {"tools": [STOPS], "tool_choice": "required", "parallel_tool_calls": False, "logprobs": True, **LONG}
    whole = (await informed.chat(**fields)).json()["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in whole).startswith("<tool_call>")
    chunks = events(await informed.chat(**fields, stream=True))
    told = [token for c in chunks for one in c["choices"] for token in (one["logprobs"] or {}).get("content", ())]
    assert [token["token"] for token in told] == [token["token"] for token in whole]


async def test_a_known_form_waits_for_no_new_one(informed: Service) -> None:
    """However long somebody's pathological grammar takes."""
    form = {"guided_regex": "known [0-9]{2}", "max_tokens": 8}
    assert (await informed.chat(**form)).status_code == 200
    over = threading.Event()
    pathological = asyncio.create_task(informed.context.lanes.grammars.run(lambda: over.wait(20)))
    new = asyncio.create_task(informed.chat(guided_regex="new [0-9]{2}", max_tokens=8))
    try:
        answer = await asyncio.wait_for(informed.chat(**form), 10)
        assert answer.json()["choices"][0]["message"]["content"].startswith("known ")
        assert not new.done()
    finally:
        over.set()
        await pathological
    assert (await new).status_code == 200


async def test_a_new_form_waits_no_longer_than_the_request(informed: Service) -> None:
    over = threading.Event()
    pathological = asyncio.create_task(informed.context.lanes.grammars.run(lambda: over.wait(20)))
    try:
        with pytest.raises(DeadlinePassed):
            await informed.context.grammars.compile("", time.monotonic() + 0.01, Form("regex", "late", "guided_regex"))
    finally:
        over.set()
        await pathological


async def test_log_probabilities_of_a_form_are_of_what_it_allows(informed: Service) -> None:
    fields = {"guided_regex": "ab[cd]", "max_tokens": 8, "logprobs": True, "top_logprobs": 5}
    tokens = (await informed.chat(**fields)).json()["choices"][0]["logprobs"]["content"]
    assert [[one["token"] for one in token["top_logprobs"]] for token in tokens[:2]] == [["a"], ["b"]]
    assert [token["logprob"] for token in tokens[:2]] == [0.0, 0.0]
    assert {one["token"] for one in tokens[2]["top_logprobs"]} == {"c", "d"}
    plain = await informed.http.post(
        "/v1/completions",
        json={"model": MODEL, "prompt": "x", "guided_regex": "ab[cd]", "max_tokens": 8, "logprobs": 5},
    )
    assert plain.json()["choices"][0]["logprobs"]["top_logprobs"][:2] == [{"a": 0.0}, {"b": 0.0}]


async def test_a_form_that_takes_too_much_is_named(informed: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts are not tried one by one: each would take as much."""
    tried = []

    def require_bounded(_: Trial, source: str) -> None:
        tried.append(source)
        raise GrammarTooExpensive("it takes too long, or too much memory, to compile")

    monkeypatch.setattr(Trial, "require_bounded", require_bounded)
    refused = await informed.chat(response_format=json_schema({"allOf": [{"type": "string"}, {"pattern": "a"}]}))
    assert refused.status_code == 400
    assert error(refused)["param"] == "response_format.json_schema.schema"
    assert error(refused)["code"] == "invalid_grammar"
    assert len(tried) == 1
