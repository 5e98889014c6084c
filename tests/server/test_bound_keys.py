"""Keys that are bound to namespaces: to them, what is elsewhere does not exist. Two services are asked the same by the
same key, one of which holds another namespace as well: no answer may differ, on any route there is."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.routing import BaseRoute, Route

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from kb.facts import Upsert
from server.http.keys import Keys, hash_key
from tests.server.support import QUESTION, Service, build_services, chat_body, error, running

BOUND, ROOT, READER, WRITER = "kg-acme", "kg-root", "kg-reader", "kg-writer"
LINES = {
    BOUND: "acme:{} read=acme edit=acme weight=0.5",
    ROOT: "root:{}",
    READER: "reader:{} read=acme,open",
    WRITER: "writer:{} edit=acme",
}
SECRETS = re.compile(rb"zx-|vault|7391", re.IGNORECASE)
"""What only the other namespace holds."""
ELSEWHERE = {"namespace": "globex"}
NDJSON = {"Content-Type": "application/x-ndjson"}
CHATS = [
    {"json": chat_body()},
    {"json": chat_body("What is the vault code?", knowledge=ELSEWHERE | {"min_score": -1})},
    {"json": chat_body("What is the vault code?", knowledge={"min_score": -1, "max_gap": 4})},
    {"json": chat_body(knowledge={"min_version": 4})},
    {"json": chat_body(stream=True)},
]
PROMPT = {"model": "tiny", "prompt": "The chief executive of Zorvex is", "max_tokens": 2, "temperature": 0}
PROMPTS = [{"json": PROMPT}, {"json": {**PROMPT, "knowledge": ELSEWHERE}}]
RESPONSE = {"model": "tiny", "input": "What is the vault code?", "max_output_tokens": 16, "temperature": 0}
RERANK = {"model": "all-minilm-l6-v2", "query": "vault"}
FACT = {"path": {"id": "zx-code"}, "params": ELSEWHERE}
OWN = {"path": {"id": "ceo"}}
DECISIONS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("GET", "/health"): [{}],
    ("GET", "/ready"): [{}],
    ("GET", "/openapi.json"): [{}],
    ("GET", "/console"): [{}],
    ("GET", "/console/{path:path}"): [{"path": {"path:path": "app/main.js"}}],
    ("GET", "/metrics"): [{}],
    ("GET", "/v1/models"): [{}],
    ("GET", "/v1/models/{model}"): [{"path": {"model": "tiny"}}],
    ("POST", "/v1/embeddings"): [{"json": {"model": "all-minilm-l6-v2", "input": "vault"}}],
    ("POST", "/tokenize"): [{"json": {"prompt": "code"}}],
    ("POST", "/detokenize"): [{"json": {"tokens": [70]}}],
    ("POST", "/v1/chat/completions"): CHATS,
    ("POST", "/v1/completions"): PROMPTS,
    ("POST", "/v1/responses"): [
        {"json": RESPONSE},
        {"json": {**RESPONSE, "knowledge": ELSEWHERE | {"min_score": -1}}},
        {"json": {**RESPONSE, "previous_response_id": "resp_" + "0" * 48}},
    ],
    ("GET", "/v1/responses/{id}"): [{"path": {"id": "resp_" + "0" * 48}}],
    ("GET", "/v1/responses/{id}/input_items"): [{"path": {"id": "resp_" + "0" * 48}}],
    ("DELETE", "/v1/responses/{id}"): [{"path": {"id": "resp_" + "0" * 48}}],
    ("POST", "/v1/rerank"): [{"json": {**RERANK, "documents": ["vault", "tram"]}}],
    ("POST", "/v2/rerank"): [{"json": {**RERANK, "documents": ["vault", "tram"]}}],
    ("POST", "/v1/score"): [{"json": {"model": "all-minilm-l6-v2", "text_1": "vault", "text_2": "tram"}}],
    ("GET", "/admin/kb/documents"): [{}, {"params": ELSEWHERE}],
    ("GET", "/admin/kb/facts"): [{}, {"params": ELSEWHERE}, {"params": ELSEWHERE | {"cursor": "a"}}],
    ("GET", "/admin/kb/facts/{id}"): [OWN, FACT, {"path": {"id": "zx-code"}}],
    ("GET", "/admin/kb/facts/{id}/history"): [OWN, FACT, {**FACT, "params": {**ELSEWHERE, "before": 9}}],
    ("POST", "/admin/kb/search"): [
        {"json": {"query": QUESTION, "min_score": -1}},
        {"json": {"query": "vault code", "min_score": -1, **ELSEWHERE}},
        {"json": {"query": QUESTION, "min_version": 4}},
    ],
    ("GET", "/admin/kb/version"): [{}],
    ("GET", "/admin/kb/history"): [{}, {"params": {"limit": 1}}, {"params": {"before": 4}}],
    ("GET", "/admin/kb/diff"): [
        {"params": {"before": 0, "after": 2}},
        {"params": {"before": 2, "after": 4}},
        {"params": {"before": 0, "after": 2, "cursor": "acme/ceo"}},
    ],
    ("GET", "/admin/kb/export"): [{}, {"params": ELSEWHERE}],
    # What edits, last.
    ("PUT", "/admin/kb/facts"): [
        {"json": {"facts": [{"id": "zx-code", "text": "Nothing.", "if_version": 1, **ELSEWHERE}]}},
        {"json": {"facts": [{"id": "own", "text": "Ours."}, {"id": "new", "text": "Theirs.", **ELSEWHERE}]}},
        {"json": {"facts": [{"id": "own", "text": "Ours."}]}},
        {"params": {"split": "true"}, "json": {"facts": [{"id": "new", "text": "Theirs.", **ELSEWHERE}]}},
    ],
    ("DELETE", "/admin/kb/facts/{id}"): [
        FACT,
        {**FACT, "params": {**ELSEWHERE, "if_version": 1}},
        {"path": {"id": "own"}},
    ],
    ("PUT", "/admin/kb/documents"): [
        {"json": {"documents": [{"id": "d", "text": "Nothing.", **ELSEWHERE}]}},
        {"json": {"documents": [{"id": "d", "text": "A vault."}]}},  # which somebody else says as well
        {"json": {"documents": [{"id": "d", "text": "Ours."}]}},
    ],
    ("DELETE", "/admin/kb/documents/{id}"): [{"path": {"id": "d"}, "params": ELSEWHERE}, {"path": {"id": "d"}}],
    ("POST", "/admin/kb/import"): [
        {"content": b'{"id": "zx-code", "text": "Nothing.", "namespace": "globex"}', "headers": NDJSON},
        {"content": b'{"op": "delete", "id": "zx-code"}', "headers": NDJSON, "params": ELSEWHERE},
        {"content": b'{"id": "tram", "text": "No tram."}', "headers": NDJSON},
    ],
    ("POST", "/admin/kb/rollback"): [{"json": {"version": 99}}, {"json": {"version": 1}}, {"json": {"version": 1}}],
}
EDITS = ("PUT", "DELETE")
EDITING = ("/admin/kb/import", "/admin/kb/rollback")
VARYING = re.compile(
    rb'"(?:id|created|at|created_at|completed_at|visible_ms|retrieval_ms)":'
    rb'(?:"(?:chatcmpl-|cmpl-|resp_|msg_|rerank-|score-)[^"]*"|[0-9.e+]+)'
)
OF_ITSELF = ("x-request-id", "content-length")
VERSION = re.compile(rb'"version":[0-9]+|versions 0 to [0-9]+')


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("\n".join(line.format(hash_key(key).hex()) for key, line in LINES.items()))
    return Keys.read(path, path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(
    tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint, encoder: MiniLMEncoder, keys: Keys
) -> AsyncIterator[tuple[Service, Service]]:
    """One with what acme holds; one where somebody else holds, and did, more."""
    async with AsyncExitStack() as stack:
        pair = []
        for _ in range(2):
            services = build_services(tmp_path_factory.mktemp("bound"), tiny, encoder, keys)
            services.store.apply(
                [Upsert("ceo", "acme", "The chief executive of Zorvex is Mara."), Upsert("tram", "acme", "The tram.")]
            )
            services.store.apply([Upsert("tram", "acme", "The last tram leaves at 23:40.")])
            pair.append(await stack.enter_async_context(running(services, min_version_wait_s=0.01)))
        other = pair[1].store
        other.apply([Upsert("zx-code", "globex", "The vault code is 7391."), Upsert("zx-b", "globex", "A vault.")])
        other.apply([Upsert("zx-code", "globex", "The vault code of Zorvex's chief executive is 7391.")])
        other.apply([Upsert("zx-free", "default", "The vault is open.")])
        yield pair[0], pair[1]


def routes(service: Service) -> set[tuple[str, str]]:
    return {(method, route.path) for route in leaves(service.app.routes) for method in route.methods or ()}


def leaves(routes: Iterable[BaseRoute]) -> Iterator[Route]:
    """Every route there is; what is neither one nor a router that holds some fails."""
    for route in routes:
        if isinstance(route, Route):
            yield route
        else:
            yield from leaves(route.original_router.routes)  # type: ignore[attr-defined]


async def asked(service: Service, method: str, template: str, given: dict[str, Any]) -> httpx.Response:
    path = template
    for name, value in given.get("path", {}).items():
        path = path.replace("{" + name + "}", value)
    headers = bearer(BOUND) | given.get("headers", {})
    rest = {name: value for name, value in given.items() if name not in ("path", "headers")}
    return await service.http.request(method, path, headers=headers, **rest)


def told(response: httpx.Response, edits: bool) -> tuple[int, bytes, dict[str, str]]:
    """What is the same whenever the same is asked; an edit's version is a number of the whole store."""
    body = VARYING.sub(b"", response.content)
    headers = {name: value for name, value in response.headers.items() if name not in OF_ITSELF}
    return response.status_code, VERSION.sub(b"", body) if edits else body, headers


@pytest.mark.asyncio(loop_scope="module")
async def test_on_every_route_another_namespace_does_not_exist(both: tuple[Service, Service]) -> None:
    there = {route for route in routes(both[1]) if route[0] != "HEAD"}
    assert there == DECISIONS.keys(), "a new route needs a decision here: what may a bound key learn there?"
    heads, gets = ({path for one, path in routes(both[1]) if one == method} for method in ("HEAD", "GET"))
    assert heads == gets
    statuses = set()
    for (method, path), requests in DECISIONS.items():
        for given in requests:
            edits = method in EDITS or path in EDITING
            alone, beside = [await asked(service, method, path, given) for service in both]
            assert told(alone, edits) == told(beside, edits), (method, path, given)
            asked_for = json.dumps(given.get("path", {})).encode() + beside.request.content
            learnt = [word for word in SECRETS.findall(beside.content) if word not in asked_for]
            assert not learnt or beside.status_code >= 400, (method, path, given)
            statuses.add(beside.status_code)
            if method == "GET":
                alone, beside = [await asked(service, "HEAD", path, given) for service in both]
                assert told(alone, edits) == told(beside, edits)
    assert {200, 400, 403, 404, 409} <= statuses
    other = both[1].store.snapshot
    assert [fact.text for fact in other.facts("globex", 0)] == [
        "A vault.",
        "The vault code of Zorvex's chief executive is 7391.",
    ]
    assert [fact.text for fact in other.facts("acme", 0)][1:] == ["The tram."]  # the way back is its own


@pytest.mark.asyncio(loop_scope="module")
async def test_its_own_namespace_is_where_it_is_at_home(both: tuple[Service, Service]) -> None:
    chat = await both[1].http.post("/v1/chat/completions", json=chat_body(), headers=bearer(BOUND))
    assert [fact["id"] for fact in chat.json()["knowledge"]["facts"]] == ["ceo"]
    state = (await both[1].http.get("/admin/kb/version", headers=bearer(BOUND))).json()
    assert state["access"] == {"read": ["acme"], "edit": ["acme"], "home": "acme"}
    assert set(state["namespaces"]) == {"acme"}
    free = (await both[1].http.get("/admin/kb/version", headers=bearer(ROOT))).json()
    assert free["access"] == {"read": None, "edit": None, "home": "default"}
    assert set(free["namespaces"]) == {"acme", "globex", "default"}


@pytest.mark.asyncio(loop_scope="module")
async def test_an_edit_elsewhere_is_refused_by_name(both: tuple[Service, Service]) -> None:
    facts = [{"id": "a", "text": "Ours."}, {"id": "b", "text": "Theirs.", "namespace": "globex"}]
    refused = await both[1].http.put("/admin/kb/facts", json={"facts": facts}, headers=bearer(BOUND))
    assert (refused.status_code, error(refused)["param"]) == (403, "facts[1].namespace")
    metrics = await both[1].http.get("/metrics", headers=bearer(BOUND))
    assert (metrics.status_code, error(metrics)["code"]) == (403, "forbidden")


@pytest.mark.asyncio(loop_scope="module")
async def test_reading_and_editing_are_apart(both: tuple[Service, Service]) -> None:
    http = both[1].http
    put = {"facts": [{"id": "note", "text": "A note.", "namespace": "acme"}]}
    assert (await http.put("/admin/kb/facts", json=put, headers=bearer(READER))).status_code == 403
    deleted = await http.delete("/admin/kb/facts/ceo?namespace=acme", headers=bearer(READER))
    assert deleted.status_code == 403  # it may see that there is one
    assert (await http.post("/admin/kb/rollback", json={"version": 0}, headers=bearer(READER))).status_code == 403
    written = await http.put("/admin/kb/facts", json=put, headers=bearer(WRITER))
    assert written.status_code == 200
    assert (await http.get("/admin/kb/facts/note", headers=bearer(WRITER))).status_code == 404
    assert (await http.get("/admin/kb/facts", headers=bearer(WRITER))).json()["facts"] == []
    seen = await http.get("/admin/kb/facts/note?namespace=acme", headers=bearer(READER))
    assert seen.json()["version"] == written.json()["version"]
    later = await http.post(
        "/v1/chat/completions",
        json=chat_body(knowledge={"namespace": "acme", "min_version": written.json()["version"]}),
        headers=bearer(READER),
    )
    assert later.json()["knowledge"]["version"] == written.json()["version"]
