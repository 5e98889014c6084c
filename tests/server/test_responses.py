"""/v1/responses: what is asked, what is written, in which order, and what is kept for whom."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from server.engine.protocol import EngineUnavailable, GrammarTooComplex, TokenChunk
from server.http.keys import KeyFile, Keys, hash_key
from server.service.response_store import ResponseStore, ResponseStoreError
from server.service.responses import MAX_WAITING
from tests.server.support import MODEL, QUESTION, Service, build_services, error, running, until

PATH = "/v1/responses"
TOOL = {
    "type": "function",
    "name": "fare",
    "parameters": {
        "type": "object",
        "properties": {"line": {"enum": ["amber", "cobalt"]}},
        "required": ["line"],
        "additionalProperties": False,
    },
}
TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]
CALL_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "response.completed",
]


async def respond(service: Service, input: Any = QUESTION, **fields: Any) -> httpx.Response:
    defaults = {"model": MODEL, "max_output_tokens": 4, "temperature": 0, "ignore_eos": True}
    return await service.http.post(PATH, json={**defaults, "input": input, **fields})


def written(response: httpx.Response) -> list[dict[str, Any]]:
    """Events of a stream, whose form and numbers are checked."""
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    found = []
    for part in response.text.split("\n\n")[:-1]:
        if part.startswith(":"):
            continue
        name, _, data = part.partition("\n")
        payload = json.loads(data.removeprefix("data: "))
        assert name == f"event: {payload['type']}"
        found.append(payload)
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    return found


def kinds(events: Sequence[dict[str, Any]]) -> list[str]:
    """Deltas that follow each other count once."""
    types = [one["type"] for one in events]
    return [one for place, one in enumerate(types) if not (one.endswith("delta") and types[place - 1] == one)]


def scripted(service: Service, monkeypatch: pytest.MonkeyPatch, *pieces: str | Exception, finish: str = "stop") -> None:
    """The engine says this, whatever it is asked."""

    async def stream() -> AsyncIterator[TokenChunk]:
        for place, piece in enumerate(pieces):
            if isinstance(piece, Exception):
                raise piece
            last = place == len(pieces) - 1
            yield TokenChunk(text=piece, token_ids=(1,), finish_reason=finish if last else None)  # type: ignore[arg-type]

    monkeypatch.setattr(type(service.engine), "generate", lambda *_: stream())


async def test_whole(informed: Service) -> None:
    response = (await respond(informed, instructions="Be brief.", metadata={"trip": "7"}, top_logprobs=0)).json()
    assert response["id"].startswith("resp_")
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    (message,) = response["output"]
    assert (message["role"], message["status"]) == ("assistant", "incomplete")
    assert message["content"][0]["type"] == "output_text"
    assert response["usage"]["output_tokens"] == 4
    assert response["usage"]["total_tokens"] == response["usage"]["input_tokens"] + 4
    assert response["metadata"] == {"trip": "7"}
    assert response["instructions"] == "Be brief."
    assert [fact["id"] for fact in response["knowledge"]["facts"]]
    chat = await informed.http.post(
        "/v1/chat/completions",
        json={
            "model": MODEL,
            "max_tokens": 4,
            "temperature": 0,
            "ignore_eos": True,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}],
        },
    )
    assert chat.json()["choices"][0]["message"]["content"] == message["content"][0]["text"]
    assert chat.json()["usage"]["prompt_tokens"] == response["usage"]["input_tokens"]
    assert chat.json()["knowledge"]["facts"] == response["knowledge"]["facts"]


async def test_streamed_text_is_the_whole_one(informed: Service) -> None:
    whole = (await respond(informed)).json()
    events = written(await respond(informed, stream=True))
    assert kinds(events) == [*TEXT_EVENTS[:-1], "response.incomplete"]
    deltas = "".join(one["delta"] for one in events if one["type"].endswith("text.delta"))
    last = events[-1]["response"]
    assert deltas == last["output"][0]["content"][0]["text"] == whole["output"][0]["content"][0]["text"]
    assert last["knowledge"]["facts"] == whole["knowledge"]["facts"]
    assert (events[0]["response"]["status"], events[0]["response"]["output"]) == ("in_progress", [])
    assert {one["item_id"] for one in events if "item_id" in one} == {last["output"][0]["id"]}
    assert events[2]["item"] == {**last["output"][0], "status": "in_progress", "content": []}


@pytest.mark.parametrize("pieces", [("Hel", "lo."), ("", "Hello.")])
async def test_a_completed_text(service: Service, monkeypatch: pytest.MonkeyPatch, pieces: tuple[str, ...]) -> None:
    scripted(service, monkeypatch, *pieces)
    events = written(await respond(service, stream=True))
    assert kinds(events) == TEXT_EVENTS
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "".join(pieces)
    assert events[-1]["response"]["completed_at"]


async def test_an_answer_without_text_is_an_empty_message(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(service, monkeypatch, "")
    assert kinds(written(await respond(service, stream=True))) == [one for one in TEXT_EVENTS if "delta" not in one]
    assert (await respond(service)).json()["output"][0]["content"][0]["text"] == ""


@pytest.mark.parametrize("streamed", [False, True])
async def test_calls(service: Service, streamed: bool) -> None:
    # By name it is one call, though several might be made.
    named = {"tool_choice": {"type": "function", "name": "fare"}, "parallel_tool_calls": True}
    one_of_any = {"tool_choice": "required", "parallel_tool_calls": False}
    fields = {"tools": [TOOL], "max_output_tokens": 200, **(named if streamed else one_of_any)}
    answer = await respond(service, ignore_eos=False, stream=streamed, **fields)
    response = answer.json() if not streamed else written(answer)[-1]["response"]
    (call,) = response["output"]
    assert (call["type"], call["name"], call["status"]) == ("function_call", "fare", "completed")
    assert json.loads(call["arguments"])["line"] in ("amber", "cobalt")
    if streamed:
        events = written(answer)
        assert kinds(events) == CALL_EVENTS
        assert "".join(one["delta"] for one in events if one["type"].endswith("arguments.delta")) == call["arguments"]
        assert events[2]["item"]["arguments"] == ""
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "4 crowns"}
    by_id = await respond(service, [output], previous_response_id=response["id"])
    by_hand = await respond(service, [{"role": "user", "content": QUESTION}, call, output])
    assert by_id.json()["usage"]["input_tokens"] == by_hand.json()["usage"]["input_tokens"]
    assert by_id.json()["output"][0]["content"] == by_hand.json()["output"][0]["content"]


async def test_text_before_calls(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    call = '<tool_call>\n{"name": "fare", "arguments": {"line": "amber"}}\n</tool_call>'
    scripted(service, monkeypatch, "Let me ", f"see.\n{call}", f"\n{call}")
    events = written(await respond(service, stream=True, tools=[TOOL]))
    response = events[-1]["response"]
    assert [item["type"] for item in response["output"]] == ["message", "function_call", "function_call"]
    assert response["output"][0]["content"][0]["text"] == "Let me see."
    assert len({item["id"] for item in response["output"]}) == 3
    assert kinds(events) == [*TEXT_EVENTS[:-1], *CALL_EVENTS[2:-1], *CALL_EVENTS[2:]]
    assert [one["output_index"] for one in events if one["type"].endswith("item.done")] == [0, 1, 2]


async def test_a_call_that_is_cut(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(service, monkeypatch, '<tool_call>\n{"name": "fare", "arguments": {"li', finish="length")
    response = (await respond(service, tools=[TOOL])).json()
    assert (response["status"], response["output"][0]["status"]) == ("incomplete", "incomplete")
    assert response["output"][0]["arguments"] == '{"li'


async def test_logprobs(service: Service) -> None:
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    events = written(await respond(service, stream=True, **fields))
    told = [one for event in events if event["type"].endswith("text.delta") for one in event["logprobs"]]
    final = events[-1]["response"]["output"][0]["content"][0]["logprobs"]
    assert len(final) == 4
    assert told == final[: len(told)]
    assert all(len(one["top_logprobs"]) == 2 for one in final)
    assert (await respond(service)).json()["output"][0]["content"][0]["logprobs"] == []


@pytest.mark.parametrize(
    ("format", "kind"),
    [({"type": "json_object"}, dict), ({"type": "json_schema", "name": "n", "schema": {"enum": ["a", "b"]}}, str)],
)
async def test_forms(service: Service, format: dict[str, Any], kind: type) -> None:
    fields = {"max_output_tokens": 200, "ignore_eos": False, "temperature": 1, "seed": 3}
    response = (await respond(service, text={"format": format}, **fields)).json()
    assert response["text"] == {"format": format}
    if response["status"] == "completed":
        assert isinstance(json.loads(response["output"][0]["content"][0]["text"]), kind)
    else:
        assert format["type"] == "json_object"


async def test_annotations(informed: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(informed, monkeypatch, "The chief executive is ", "Mara Lindqvist.")
    expected = {
        "type": "url_citation",
        "start_index": 23,
        "end_index": 37,
        "title": "ceo",
        "url": "kalmagrove:default/ceo",
    }
    found = written(await respond(informed, stream=True))
    (added,) = (one for one in found if one["type"] == "response.output_text.annotation.added")
    assert (added["annotation"], added["annotation_index"], added["content_index"]) == (expected, 0, 0)
    assert found[-1]["response"]["output"][0]["content"][0]["annotations"] == [expected]
    assert (
        found.index(added) == next(n for n, one in enumerate(found) if one["type"] == "response.output_text.done") - 1
    )
    for one in found:
        TypeAdapter(ResponseStreamEvent).validate_python(one)
    without = (await respond(informed, knowledge={"citations": False})).json()
    assert without["output"][0]["content"][0]["annotations"] == []


async def test_going_on(informed: Service) -> None:
    first = (await respond(informed)).json()
    second = (await respond(informed, "And the tram?", previous_response_id=first["id"])).json()
    said = first["output"][0]["content"][0]["text"]
    by_hand = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": said},
        {"role": "user", "content": [{"type": "input_text", "text": "And the tram?"}]},
    ]
    same = (await respond(informed, by_hand, instructions=None)).json()
    assert second["usage"] == same["usage"]
    assert second["output"][0]["content"] == same["output"][0]["content"]
    assert second["previous_response_id"] == first["id"]
    third = (await respond(informed, "Sure?", previous_response_id=second["id"])).json()
    listed = (await informed.http.get(f"{PATH}/{third['id']}/input_items?order=asc")).json()
    texts = [item["content"][0]["text"] for item in listed["data"]]
    assert texts[::2] == [QUESTION, "And the tram?", "Sure?"]
    assert [item["id"] for item in listed["data"]][1] == first["output"][0]["id"]
    page = (await informed.http.get(f"{PATH}/{third['id']}/input_items?limit=2")).json()
    assert [page["has_more"], page["first_id"]] == [True, listed["data"][-1]["id"]]
    rest = (await informed.http.get(f"{PATH}/{third['id']}/input_items?limit=9&after={page['last_id']}")).json()
    assert [*page["data"], *rest["data"]] == listed["data"][::-1]
    # What was gone on from may go: whoever went on has a copy.
    await informed.http.delete(f"{PATH}/{first['id']}")
    assert (await respond(informed, "Really?", previous_response_id=third["id"])).status_code == 200


async def test_references(service: Service) -> None:
    first = (await respond(service)).json()
    items = (await service.http.get(f"{PATH}/{first['id']}/input_items")).json()["data"]
    referred = [
        {"type": "item_reference", "id": items[0]["id"]},
        {"id": first["output"][0]["id"]},
        {"role": "user", "content": "And?"},
    ]
    by_reference = (await respond(service, referred)).json()
    by_id = (await respond(service, "And?", previous_response_id=first["id"])).json()
    assert by_reference["output"][0]["content"] == by_id["output"][0]["content"]
    assert by_reference["usage"] == by_id["usage"]
    twice = await respond(service, [referred[1], referred[1]])
    assert (twice.status_code, error(twice)["param"]) == (400, "input[1].id")
    known = await respond(service, [referred[1]], previous_response_id=first["id"])
    assert (known.status_code, error(known)["param"]) == (400, "input[0].id")
    for missing in ("msg_" + "0" * 36, "rs_1"):
        response = await respond(service, [referred[2], {"type": "item_reference", "id": missing}])
        assert (response.status_code, error(response)["param"]) == (404, "input[1].id")


async def test_kept_until_deleted(service: Service) -> None:
    response = (await respond(service)).json()
    assert response["store"] is True
    assert (await service.http.get(f"{PATH}/{response['id']}")).json() == response
    assert service.context.metrics.registry.get_sample_value("kalmagrove_responses_stored") == 1
    gone = await service.http.delete(f"{PATH}/{response['id']}")
    assert gone.json() == {"id": response["id"], "object": "response", "deleted": True}
    for again in (
        await service.http.delete(f"{PATH}/{response['id']}"),
        await service.http.get(f"{PATH}/{response['id']}"),
        await service.http.get(f"{PATH}/{response['id']}/input_items"),
    ):
        assert (again.status_code, error(again)["code"]) == (404, "not_found")
    more = await respond(service, previous_response_id=response["id"])
    assert (more.status_code, error(more)["code"]) == (400, "previous_response_not_found")
    assert error(more)["param"] == "previous_response_id"


async def test_not_kept_if_not_wanted(service: Service) -> None:
    response = (await respond(service, store=False)).json()
    assert response["store"] is False
    assert (await service.http.get(f"{PATH}/{response['id']}")).status_code == 404


@asynccontextmanager
async def keyed(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder, *names: str) -> AsyncIterator[Service]:
    lines = (f"{name}:{hash_key(name).hex()}" for name in names)
    file = tmp_path / "client.keys"
    file.write_text("\n".join(lines))
    services = build_services(tmp_path, tiny, encoder, Keys(client=KeyFile(file)))
    async with running(services) as service:
        yield service


async def test_another_keys_response_does_not_exist(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    async with keyed(tmp_path, tiny, encoder, "alice", "bob") as service:
        service.http.headers["Authorization"] = "Bearer alice"
        made = (await respond(service)).json()
        never = f"resp_{'0' * 32}"
        service.http.headers["Authorization"] = "Bearer bob"
        for method, path in (("GET", ""), ("GET", "/input_items"), ("DELETE", "")):
            theirs = await service.http.request(method, f"{PATH}/{made['id']}{path}")
            nobodys = await service.http.request(method, f"{PATH}/{never}{path}")
            assert theirs.status_code == nobodys.status_code == 404
            assert theirs.text.replace(made["id"], never) == nobodys.text
        theirs, nobodys = [await respond(service, previous_response_id=one) for one in (made["id"], never)]
        assert theirs.text.replace(made["id"], never) == nobodys.text
        item = await respond(service, [{"type": "item_reference", "id": made["output"][0]["id"]}])
        assert (item.status_code, error(item)["param"]) == (404, "input[0].id")
        service.http.headers["Authorization"] = "Bearer alice"
        assert (await service.http.get(f"{PATH}/{made['id']}")).json() == made


async def test_an_answer_that_cannot_be_kept_is_given(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise ResponseStoreError("disk full")

    monkeypatch.setattr(ResponseStore, "add", fail)
    assert (await respond(service)).json()["store"] is False
    assert written(await respond(service, stream=True))[-1]["response"]["store"] is False
    assert service.context.metrics.registry.get_sample_value("kalmagrove_responses_not_kept_total") == 2
    monkeypatch.setattr(ResponseStore, "response", fail)
    response = await service.http.get(f"{PATH}/resp_{'0' * 32}")
    assert (response.status_code, error(response)["code"]) == (503, "response_store_failed")
    assert response.headers["retry-after"]


async def test_a_disk_that_hangs_holds_up_nobody_else(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for it is bounded, what is asked meanwhile is answered, and it is told that it is not kept."""
    monkeypatch.setattr("server.service.responses.SAVE_PATIENCE_S", 0.05)
    goes_on = threading.Event()

    def hang(*_: object) -> None:
        goes_on.wait(30)

    monkeypatch.setattr(ResponseStore, "response", hang)
    path = f"{PATH}/resp_{'0' * 32}"
    asking = [asyncio.create_task(service.http.get(path)) for _ in range(MAX_WAITING + 1)]
    try:
        await until(lambda: service.context.lifecycle.running == MAX_WAITING + 1)
        refused = await service.http.get(path)
        assert (refused.status_code, error(refused)["code"]) == (429, "server_overloaded")
        assert refused.headers["retry-after"]
        assert (await service.chat()).status_code == 200
        given = (await respond(service)).json()
        assert (given["status"], given["store"]) == ("incomplete", False)
    finally:
        goes_on.set()
    assert {response.status_code for response in await asyncio.gather(*asking)} == {404}


async def test_without_a_store(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> None:
    services = build_services(tmp_path, tiny, encoder)
    assert services.responses is not None
    services.responses.close()
    async with running(replace(services, responses=None)) as service:
        assert (await respond(service)).json()["store"] is False
        refused = await respond(service, store=True)
        assert (refused.status_code, error(refused)["param"]) == (400, "store")
        assert (await service.http.get(f"{PATH}/resp_1")).status_code == 404


async def test_failures(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first token an error response; afterwards the stream's last event."""
    scripted(service, monkeypatch, EngineUnavailable("gone"))
    response = await respond(service, stream=True)
    assert (response.status_code, error(response)["code"]) == (503, "server_unavailable")
    scripted(service, monkeypatch, "Hel", GrammarTooComplex("too much"))
    events = written(await respond(service, stream=True))
    last = events[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"]["code"] == "invalid_prompt"
    assert (await service.http.get(f"{PATH}/{last['response']['id']}")).status_code == 404
    scripted(service, monkeypatch, "Hel", RuntimeError("a bug"))
    assert written(await respond(service, stream=True))[-1]["response"]["error"]["code"] == "server_error"
    monkeypatch.setattr("server.http.streaming.EventStream.patience_s", 0.0)
    scripted(service, monkeypatch, EngineUnavailable("gone"))
    (only,) = written(await respond(service, stream=True))
    assert (only["type"], only["code"]) == ("error", "server_unavailable")


async def test_who_leaves_keeps_nothing(service: Service) -> None:
    body = {"model": MODEL, "input": QUESTION, "max_output_tokens": 400, "ignore_eos": True, "stream": True}
    parts: list[dict[str, Any]] = []
    left = False

    async def receive() -> dict[str, Any]:
        nonlocal left
        if not left:
            left = True
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        await until(lambda: len(parts) > 3)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        parts.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b""}
    asgi = {"asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": ""}
    await service.app({**scope, **asgi, "headers": headers, "server": ("localhost", 80)}, receive, send)
    assert not any(b"response.incomplete" in part.get("body", b"") for part in parts)
    await until(lambda: service.engine.stats().running == 0)
    assert service.context.services.responses is not None
    assert service.context.services.responses.held.count == 0


USER = {"role": "user", "content": "x"}
CASES: list[tuple[dict[str, Any], str]] = [
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input"),
    ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
    ({"input": [USER, {"role": "user"}]}, "input[1].content"),
    ({"input": [{**USER, "mood": 1}]}, "input[0].mood"),
    ({"input": [{**USER, "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0].type"),
    ({"input": [USER, {"type": "web_search_call", "id": "ws_1"}]}, "input[1].type"),
    ({"input": [USER, {"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input[1].call_id"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
    ({"input": [USER] * 1025}, "input"),
    ({"input": [{**USER, "content": [{"type": "input_text", "text": "x"}] * 4097}]}, "input"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tools": [{**TOOL, "parameters": {"not": {}}}]}, "tools[0].parameters"),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
    ({"tool_choice": {"type": "function", "name": "fare"}}, "tool_choice.name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "perhaps"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.tools"),
    ({"input": [{"type": "item_reference"}]}, "input[0].id"),
    ({"input": [USER, 7]}, "input[1]"),
    ({"input": 7}, "input"),
    ({"truncation": "auto"}, "truncation"),
    ({"background": True}, "background"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"reasoning": {"effort": "high"}}, "reasoning"),
    ({"include": ["nonsense"]}, "include[0]"),
    ({"metadata": {"x": 1}}, "metadata.x"),
    ({"metadata": {str(one): "x" for one in range(17)}}, "metadata"),
    ({"text": {"verbosity": "high"}}, "text.verbosity"),
    ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"not": {}}}}}, "text.format.schema"),
    ({"text": {"format": {"type": "text", "schema": {}}}}, "text.format.schema"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"n": 2}, "n"),
    ({"store": "yes"}, "store"),
    ({"input": "word " * 3000}, "input"),
    ({"knowledge": {"top_k": -1}}, "knowledge.top_k"),
]


async def test_refusals(service: Service) -> None:
    for fields, param in CASES:
        response = await respond(service, **fields)
        assert response.status_code == 400, (fields, response.text)
        assert error(response)["param"] == param, (fields, response.text)
    assert service.context.services.responses is not None
    assert service.context.services.responses.held.count == 0


async def test_harmless(service: Service) -> None:
    """What clients send by default, and what they send back."""
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{", "status": "completed", "id": "fc_9"}
    said = {"type": "output_text", "text": "Yes.", "annotations": [], "logprobs": [{"token": "Yes."}]}
    items = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"},
        {
            "id": "msg_9",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "phase": None,
            "content": [said],
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        call,
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "7"}]},
    ]
    fields = {
        "background": False,
        "conversation": None,
        "include": ["reasoning.encrypted_content"],
        "max_tool_calls": None,
        "prompt_cache_key": "k",
        "reasoning": None,
        "safety_identifier": "s",
        "service_tier": "auto",
        "stream_options": None,
        "text": {"verbosity": "medium"},
        "tools": [],
        "truncation": "disabled",
        "user": "u",
    }
    response = await respond(service, items, **fields)
    assert response.status_code == 200, response.text


async def test_allowed_tools(service: Service) -> None:
    other = {**TOOL, "name": "other"}
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "other"}]}
    fields = {"tools": [TOOL, other], "max_output_tokens": 200, "ignore_eos": False, "parallel_tool_calls": False}
    response = (await respond(service, tool_choice=choice, **fields)).json()
    assert [item["name"] for item in response["output"]] == ["other"]
    assert (response["tool_choice"], len(response["tools"])) == (choice, 2)


async def test_the_official_client(informed: Service) -> None:
    """Its types are those of the API: whatever it reads is as documented."""
    http = httpx.AsyncClient(transport=httpx.ASGITransport(informed.app), base_url="http://localhost")
    async with openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="x", http_client=http) as client:
        response = await client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=4)
        assert response.output_text == response.output[0].content[0].text  # type: ignore[union-attr]
        type(response).model_validate(response.model_dump())
        stream = await client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=4, stream=True)
        async with aclosing(stream) as events:
            async for event in events:
                type(event).model_validate(event.model_dump())
        found = await client.responses.retrieve(response.id)
        assert found.output == response.output
        assert (await client.responses.input_items.list(response.id)).data[0].type == "message"
        await client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)
        with pytest.raises(openai.BadRequestError, match="web_search"):
            await client.responses.create(model=MODEL, input=QUESTION, tools=[{"type": "web_search"}])
