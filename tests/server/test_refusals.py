"""Bad input on every endpoint: a 4xx that names the field, and nothing changed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from tests.server.support import MODEL, Service, build_services, chat_body, error, running

JSON = {"Content-Type": "application/json"}
USER = [{"role": "user", "content": "x"}]
CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
FACTS = "/admin/kb/facts"

CHAT_CASES: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "x"}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0].type",
    ),
    ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages[0].mood"),
    ({"model": 1}, "model"),
    ({"temperature": "warm"}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"n": 0}, "n"),
    ({"n": 1000}, "n"),
    ({"n": 17}, "n"),
    ({"n": True}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_completion_tokens": 1}, "max_tokens"),
    ({"seed": 2**70}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": [1]}, "stop[0]"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logprobs": 3}, "logprobs"),
    ({"logit_bias": {"1": 101}}, "logit_bias[1]"),
    ({"logit_bias": {"cat": 1}}, "logit_bias.cat"),
    ({"logit_bias": {"259": 1}}, "logit_bias[259]"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"knowledge": 1}, "knowledge"),
    ({"knowledge": {"top_k": -1}}, "knowledge.top_k"),
    ({"knowledge": {"top_k": 65}}, "knowledge.top_k"),
    ({"knowledge": {"min_score": 2}}, "knowledge.min_score"),
    ({"knowledge": {"max_gap": -0.1}}, "knowledge.max_gap"),
    ({"knowledge": {"retrieval": "psychic"}}, "knowledge.retrieval"),
    ({"knowledge": {"retrieval": 1}}, "knowledge.retrieval"),
    ({"knowledge": {"namespace": ""}}, "knowledge.namespace"),
    ({"knowledge": {"namespace": "a/b"}}, "knowledge.namespace"),
    ({"knowledge": {"min_version": -1}}, "knowledge.min_version"),
    ({"knowledge": {"colour": 1}}, "knowledge.colour"),
    ({"colour": "red"}, "colour"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [{}]}, "functions"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"store": True}, "store"),
    ({"prediction": {}}, "prediction"),
    ({"web_search_options": {}}, "web_search_options"),
]

OTHER_CASES: list[tuple[str, str, Any, str]] = [
    ("POST", PLAIN, {"model": MODEL}, "prompt"),
    ("POST", PLAIN, {"model": MODEL, "prompt": ""}, "prompt"),
    ("POST", PLAIN, {"model": MODEL, "prompt": []}, "prompt"),
    ("POST", PLAIN, {"model": MODEL, "prompt": [[]]}, "prompt[0]"),
    ("POST", PLAIN, {"model": MODEL, "prompt": [-1]}, "prompt[0]"),
    ("POST", PLAIN, {"model": MODEL, "prompt": ["x", 1]}, "prompt[1]"),
    ("POST", PLAIN, {"model": MODEL, "prompt": "x", "logprobs": True}, "logprobs"),
    ("POST", "/v1/embeddings", {"model": "x"}, "input"),
    ("POST", "/tokenize", {}, "prompt"),
    ("POST", "/tokenize", {"prompt": "x", "messages": USER}, "prompt"),
    ("POST", "/tokenize", {"prompt": 5}, "prompt"),
    ("POST", "/detokenize", {}, "tokens"),
    ("POST", "/detokenize", {"tokens": ["x"]}, "tokens[0]"),
    ("POST", "/detokenize", {"tokens": [-1]}, "tokens[0]"),
    ("PUT", FACTS, {}, "facts"),
    ("PUT", FACTS, {"facts": []}, "facts"),
    ("PUT", FACTS, {"facts": [{"id": "a"}]}, "facts[0].text"),
    ("PUT", FACTS, {"facts": [{"text": "a"}]}, "facts[0].id"),
    ("PUT", FACTS, {"facts": [{"id": "a/b", "text": "x"}]}, "facts[0].id"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": " "}]}, "facts[0].text"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "x\0"}]}, "facts[0].text"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "x" * 5000}]}, "facts[0].text"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "word " * 300}]}, "facts[0].text"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]}, "facts[1].id"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "x", "metadata": []}]}, "facts[0].metadata"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "x", "metadata": {"k": "v" * 9000}}]}, "facts[0].metadata"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "x", "metadata": {"k": [[[[[[[[[[]]]]]]]]]]}}]}, "facts[0].metadata"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "x", "expires_at": "soon"}]}, "facts[0].expires_at"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "x", "expires_at": -1}]}, "facts[0].expires_at"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "x", "expires_at": 1_600_000_000}]}, "facts[0].expires_at"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "\u200b\u2060"}]}, "facts[0].text"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "\x01\x02"}]}, "facts[0].text"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "x", "namespace": ""}]}, "facts[0].namespace"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "x", "metadata": {"n": 2**64}}]}, "facts[0].metadata"),
    (
        "PUT",
        FACTS,
        {"facts": [{"id": "a", "text": "x", "metadata": {"n": [{"m": -(2**63) - 1}]}}]},
        "facts[0].metadata",
    ),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "x", "colour": 1}]}, "facts[0].colour"),
    ("PUT", FACTS, {"facts": [{"id": f"f{i}", "text": "x"} for i in range(513)]}, "facts"),
    ("PUT", FACTS, {"facts": [{"id": "a", "text": "x"}], "dry_run": True}, "dry_run"),
    ("GET", f"{FACTS}?limit=0", None, "limit"),
    ("GET", f"{FACTS}?limit=many", None, "limit"),
    ("GET", f"{FACTS}?namespace=a/b", None, "namespace"),
    ("GET", f"{FACTS}/a%20b", None, "id"),
    ("GET", f"{FACTS}/.hidden", None, "id"),
    ("DELETE", f"{FACTS}/{'x' * 200}", None, "id"),
    ("GET", f"{FACTS}/a/history?before=-1", None, "before"),
    ("POST", "/admin/kb/search", {}, "query"),
    ("POST", "/admin/kb/search", {"query": ""}, "query"),
    ("POST", "/admin/kb/search", {"query": "x", "top_k": 1e9}, "top_k"),
    ("POST", "/admin/kb/search", {"query": "x", "retrieval": "psychic"}, "retrieval"),
    ("POST", "/admin/kb/search", {"query": "x", "min_version": 5}, "knowledge.min_version"),
    ("GET", "/admin/kb/history?limit=1001", None, "limit"),
    ("POST", "/admin/kb/rollback", {}, "version"),
    ("POST", "/admin/kb/rollback", {"version": -1}, "version"),
    ("POST", "/admin/kb/rollback", {"version": 10}, "version"),
    ("GET", "/admin/kb/export?namespace=%20", None, "namespace"),
    ("POST", "/admin/kb/import?namespace=%20", None, "namespace"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small(
    tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint, encoder: MiniLMEncoder
) -> AsyncIterator[Service]:
    """One service for all cases: none of them may change it."""
    services = build_services(tmp_path_factory.mktemp("refusals"), tiny, encoder)
    async with running(services, max_body_bytes=100_000, min_version_wait_s=0.01) as service:
        yield service
        assert service.version == 0
        await service.engine.audit()


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def unchanged(small: Service) -> AsyncIterator[None]:
    steps = small.engine.stats().steps
    yield
    assert small.version == 0
    assert small.engine.stats().steps == steps  # refused before any work was done


@pytest.mark.parametrize(("fields", "param"), CHAT_CASES, ids=lambda value: str(value)[:40])
async def test_chat(small: Service, fields: dict[str, Any], param: str) -> None:
    response = await small.http.post(CHAT, json=chat_body(**{"messages": USER, **fields}))
    assert response.status_code == 400, response.text
    assert error(response)["param"] == param
    assert error(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize(("method", "path", "body", "param"), OTHER_CASES, ids=lambda value: str(value)[:40])
async def test_others(small: Service, method: str, path: str, body: Any, param: str) -> None:
    response = await small.http.request(method, path, json=body)
    assert 400 <= response.status_code < 500, response.text
    assert error(response)["param"] == param


async def test_a_batch_names_all_its_bad_facts(small: Service) -> None:
    facts = [{"id": "a b", "text": " "}, {"id": "good", "text": "fine"}, {"id": "c", "text": "x" * 5000}]
    response = await small.http.put(FACTS, json={"facts": facts})
    assert (response.status_code, error(response)["param"]) == (400, "facts[0].id")
    told = error(response)["message"]
    assert [told.find(param) >= 0 for param in ("facts[0].id: ", "facts[0].text: ", "facts[2].text: ")] == [True] * 3
    assert "facts[1]" not in told
    long = [{"id": f"f{number}", "text": "word " * 300} for number in range(30)]
    told = error(await small.http.put(FACTS, json={"facts": long}))["message"]
    assert "facts[19].text: has " in told
    assert told.endswith("; and 10 more")


@pytest.mark.parametrize(
    ("path", "body", "limit"),
    [
        (CHAT, chat_body(stop=["a"] * 17), "at most 16 items"),
        (CHAT, chat_body(stop="x" * 513), "at most 512 characters"),
        (CHAT, chat_body(messages=[{"role": "user", "content": []}]), "at least 1 item"),
        (PLAIN, {"model": MODEL, "prompt": ["x"] * 129}, "at most 128 items"),
        (PLAIN, {"model": MODEL, "prompt": [[1]] * 129}, "at most 128 items"),
        ("/v1/embeddings", {"model": "all-minilm-l6-v2", "input": ["x"] * 5000}, "at most"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_unions_name_the_limit_that_was_broken(small: Service, path: str, body: Any, limit: str) -> None:
    response = await small.http.post(path, json=body)
    assert response.status_code == 400
    assert limit in error(response)["message"]


def unknown_queries(service: Service) -> list[tuple[str, str]]:
    paths = service.app.openapi()["paths"]
    return [(method.upper(), path.replace("{id}", "a")) for path, item in paths.items() for method in item]


async def test_unknown_query_parameters_are_refused_everywhere(small: Service) -> None:
    """By name, before anything happens: a mistyped namespace must not be the default one."""
    for method, path in unknown_queries(small):
        body = {"PUT": {"facts": [{"id": "a", "text": "x"}]}}.get(method)
        kind = "application/x-ndjson" if path.endswith("import") else "application/json"
        content = b"" if path.endswith("import") or method == "GET" else json.dumps(body or {}).encode()
        response = await small.http.request(
            method, f"{path}?namspace=other", content=content, headers={"Content-Type": kind}
        )
        assert response.status_code == 400, (method, path, response.text)
        assert (error(response)["code"], error(response)["param"]) == ("unknown_parameter", "namspace"), path


async def test_query_parameters_are_given_once(small: Service) -> None:
    response = await small.http.delete(f"{FACTS}/a?namespace=one&namespace=other")
    assert (response.status_code, error(response)["param"]) == (400, "namespace")


async def test_head_wherever_there_is_get(small: Service) -> None:
    for path in ("/health", "/ready", "/metrics", "/v1/models", f"/v1/models/{MODEL}", "/admin/kb/version", FACTS):
        assert (await small.http.head(path)).status_code == 200, path
    assert (await small.http.head(f"{FACTS}/a")).status_code == 404


JSON_ENDPOINTS = [
    ("POST", CHAT),
    ("POST", PLAIN),
    ("POST", "/v1/embeddings"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("PUT", FACTS),
    ("POST", "/admin/kb/search"),
    ("POST", "/admin/kb/rollback"),
]


@pytest.mark.parametrize(("method", "path"), JSON_ENDPOINTS)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": 1e999}',
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 16_000,
    ],
    ids=lambda content: content[:24].decode("latin-1"),
)
async def test_bodies_that_are_no_json_objects(small: Service, method: str, path: str, content: bytes) -> None:
    response = await small.http.request(method, path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    error(response)


@pytest.mark.parametrize(("method", "path"), JSON_ENDPOINTS)
async def test_huge_bodies_and_foreign_types(small: Service, method: str, path: str) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 10_000

    declared = await small.http.request(method, path, content=b" " * 100_001)
    streamed = await small.http.request(method, path, content=endless(), headers={"Content-Type": "application/json"})
    for response in (declared, streamed):
        assert (response.status_code, error(response)["code"]) == (413, "body_too_large")
    form = await small.http.request(method, path, content=b"a=b", headers={"Content-Type": "text/plain"})
    assert (form.status_code, error(form)["code"]) == (415, "unsupported_media_type")


async def test_unknown_routes_and_methods(small: Service) -> None:
    missing = await small.http.get("/v2/everything")
    assert (missing.status_code, error(missing)["code"]) == (404, "not_found")
    wrong = await small.http.get(CHAT)
    assert (wrong.status_code, error(wrong)["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


async def test_nobody_is_sent_elsewhere(small: Service) -> None:
    """A redirect would go where the Host header says, by http."""
    for method, path in (("GET", "/v1/models/"), ("POST", f"{CHAT}/"), ("GET", "/admin/kb/version/")):
        response = await small.http.request(method, path)
        assert (response.status_code, error(response)["code"]) == (404, "not_found")


async def test_methods_do_not_multiply_series(small: Service) -> None:
    """Anybody may invent requests, which are counted for ever."""

    def series() -> int:
        return sum(line.startswith("kalmagrove_http_") for line in small.context.metrics.render().decode().splitlines())

    for path in ("/health", CHAT, "/admin/kb/facts/a", "/nowhere"):
        await small.http.request("PROPFIND", path)
    before = series()
    for path in ("/health", CHAT, "/admin/kb/facts/a", "/nowhere"):
        for method in ("MKCOL", "LOCK", "TRACE", "SEARCH", "INVENTED"):
            assert (await small.http.request(method, path)).status_code in (404, 405)
    assert series() == before


async def test_unknown_model(small: Service) -> None:
    response = await small.http.post(CHAT, json=chat_body(model="gpt-4"))
    assert (response.status_code, error(response)["code"]) == (404, "model_not_found")


async def test_request_ids(small: Service) -> None:
    own = await small.http.get("/v1/models", headers={"X-Request-Id": "abc-1"})
    assert own.headers["x-request-id"] == "abc-1"
    made = [(await small.http.get("/nowhere")).headers["x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2
    for bad in ("x" * 129, "a b", "é".encode()):
        response = await small.http.get("/v1/models", headers={"X-Request-Id": bad})
        assert len(response.headers["x-request-id"]) == 32


async def test_messages_quote_little(small: Service) -> None:
    response = await small.http.post(CHAT, content=json.dumps(chat_body(**{"y" * 5000: 1})), headers=JSON)
    assert len(response.content) < 6500
    assert len(error(response)["message"]) <= 500
