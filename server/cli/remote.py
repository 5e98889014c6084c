"""The `kb` commands on a running server, over its admin API."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any
from urllib.parse import quote

import httpx

from kb.facts import DEFAULT_NAMESPACE, SearchMethod
from server.cli.console import CONFLICT, FAILED, NOT_FOUND, UNREACHABLE, CommandError
from server.cli.targets import DocumentRow, DocumentWritten, FactRow, HistoryRow, HitRow, NewFact, Written

TIMEOUT_S = 60.0
IMPORT_SILENCE_S = 600.0
"""Between two signs of life of an import: the server answers only now and then."""


@contextmanager
def connect(server: str, key: str | None) -> Iterator[ServerTarget]:
    """Nothing is sent yet. Raises CommandError for an address that is none.

    SSL_CERT_FILE names the authorities to trust instead of the usual ones. Proxies that the environment names are
    not used.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        client = httpx.Client(
            base_url=server, headers=headers, timeout=TIMEOUT_S, verify=httpx.create_ssl_context(), trust_env=False
        )
    except (httpx.InvalidURL, ValueError, OSError) as error:
        raise CommandError(f"{server}: {error}", UNREACHABLE) from error
    with client:
        yield ServerTarget(client)


class ServerTarget:
    """A KnowledgeTarget."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def put(self, fact: NewFact) -> Written:
        row = {
            "id": fact.id,
            "namespace": fact.namespace,
            "text": fact.text,
            "metadata": fact.metadata,
            "expires_at": fact.expires_at,
            "if_version": fact.if_version,
        }
        return _written(self._call("PUT", "/admin/kb/facts", body={"facts": [row]}))

    def get(self, namespace: str | None, fact_id: str) -> FactRow:
        return _row(self._call("GET", _fact_path(fact_id), params=_within(namespace)))

    def delete(self, namespace: str | None, fact_id: str, if_version: int | None) -> Written:
        params = _within(namespace) | ({} if if_version is None else {"if_version": str(if_version)})
        return _written(self._call("DELETE", _fact_path(fact_id), params=params))

    def search(
        self,
        namespace: str | None,
        query: str,
        top_k: int | None,
        min_score: float | None,
        retrieval: SearchMethod | None,
        filter: str | None,
    ) -> list[HitRow]:
        body = {
            "query": query,
            "namespace": namespace,
            "top_k": top_k,
            "min_score": min_score,
            "retrieval": retrieval,
            "filter": None if filter is None else json.loads(filter),
        }
        reply = self._call("POST", "/admin/kb/search", body=body)
        return [HitRow(hit["score"], hit["lexical"], _row(hit["fact"])) for hit in reply["hits"]]

    def import_lines(self, chunks: Iterable[bytes]) -> Written:
        last: dict[str, Any] = {}
        headers = {"Content-Type": "application/x-ndjson"}
        timeout = httpx.Timeout(TIMEOUT_S, read=IMPORT_SILENCE_S, write=IMPORT_SILENCE_S)
        with self._stream("POST", "/admin/kb/import", content=chunks, headers=headers, timeout=timeout) as reply:
            for line in reply.iter_lines():
                event = json.loads(line)
                if "error" in event:
                    done = f" ({last.get('imported', 0)} facts were imported)"
                    raise CommandError(event["error"]["message"] + done)
                last = event
        if not last.get("done"):
            raise CommandError("the server ended the import without a summary")
        return Written(last["version"], last["imported"])

    def export_lines(self, namespace: str | None) -> Iterator[bytes]:
        with self._stream("GET", "/admin/kb/export", params=_within(namespace)) as reply:
            yield from reply.iter_bytes()

    def put_document(
        self, document_id: str, namespace: str | None, text: str, format: str, metadata: Mapping[str, Any]
    ) -> DocumentWritten:
        """Split on the server, in place of what the document was."""
        row = {"id": document_id, "namespace": namespace, "text": text, "format": format, "metadata": metadata}
        # Not a number of seconds: as long as the server embeds it, within its own deadlines.
        timeout = httpx.Timeout(TIMEOUT_S, read=IMPORT_SILENCE_S)
        reply = self._call("PUT", "/admin/kb/documents", body={"documents": [row]}, timeout=timeout)
        (written,) = reply["documents"]
        return DocumentWritten(written["facts"], written["encoded"])

    def documents(self, namespace: str | None) -> Iterator[DocumentRow]:
        """All of them, by id."""
        params = {**_within(namespace), "limit": "1000"}
        while True:
            reply = self._call("GET", "/admin/kb/documents", params=params)
            for row in reply["documents"]:
                yield DocumentRow(**{field.name: row[field.name] for field in fields(DocumentRow)})
            if reply["next_cursor"] is None:
                return
            params = {**params, "cursor": reply["next_cursor"]}

    def delete_document(self, namespace: str | None, document_id: str, if_version: int | None) -> Written:
        """With all of its facts."""
        params = _within(namespace) | ({} if if_version is None else {"if_version": str(if_version)})
        return _written(self._call("DELETE", f"/admin/kb/documents/{quote(document_id, safe='')}", params=params))

    def home(self) -> str:
        """The namespace that is meant where none is named: the key may be bound to others than the usual one."""
        reply = self._call("GET", "/admin/kb/version")
        return str(reply.get("access", {}).get("home", DEFAULT_NAMESPACE))

    def count(self, namespace: str | None) -> int:
        reply = self._call("GET", "/admin/kb/version")
        return int(reply["facts"] if namespace is None else reply["namespaces"].get(namespace, 0))

    def history(self, namespace: str | None, fact_id: str | None, limit: int, before: int | None) -> list[HistoryRow]:
        params = {"limit": str(limit)} | ({"before": str(before)} if before is not None else {})
        if fact_id is None:
            reply = self._call("GET", "/admin/kb/history", params=params)
            return [
                HistoryRow(v["version"], v["at"], f"{v['kind']}: +{v['upserted']} -{v['deleted']}")
                for v in reply["versions"]
            ]
        reply = self._call("GET", f"{_fact_path(fact_id)}/history", params=params | _within(namespace))
        return [
            HistoryRow(v["version"], v["at"], f"{v['kind']}: {v['operation']}", v["text"]) for v in reply["versions"]
        ]

    def rollback(self, version: int) -> Written:
        return _written(self._call("POST", "/admin/kb/rollback", body={"version": version}))

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Mapping[str, str] | None = None,
        timeout: httpx.Timeout | None = None,
    ) -> dict[str, Any]:
        limits = {} if timeout is None else {"timeout": timeout}
        with self._stream(method, path, json=body, params=params, **limits) as response:
            reply: dict[str, Any] = json.loads(response.read())
            return reply

    @contextmanager
    def _stream(self, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        """A response that is no error. Everything else is a CommandError, breaking off included."""
        try:
            with self._client.stream(method, path, **request) as response:
                if response.is_error:
                    raise _refusal(response.status_code, response.read())
                yield response
        except httpx.ConnectError as error:
            raise CommandError(
                f"no server at {self._client.base_url}: {error}. Start one with `kalmagrove serve`, or name it with "
                "--server. `kalmagrove kb` takes --store as well.",
                UNREACHABLE,
            ) from error
        except httpx.HTTPError as error:
            raise CommandError(f"{method} {path}: {type(error).__name__} {error}", UNREACHABLE) from error
        except json.JSONDecodeError as error:
            raise CommandError(f"{method} {path}: the answer is not JSON; is this a KalmaGrove server?") from error


def _refusal(status: int, body: bytes) -> CommandError:
    """The server's own words where it has any."""
    try:
        error = json.loads(body)["error"]
        message = str(error["message"])
    except (ValueError, KeyError, TypeError):
        message = f"status {status}, without an explanation; is this a KalmaGrove server?"
        return CommandError(message)
    if status == 401:
        message += " (--key, or KALMAGROVE_ADMIN_KEY)"
    return CommandError(message, {404: NOT_FOUND, 409: CONFLICT}.get(status, FAILED))


def _fact_path(fact_id: str) -> str:
    return f"/admin/kb/facts/{quote(fact_id, safe='')}"


def _within(namespace: str | None) -> dict[str, str]:
    """None: the server knows which one the key means."""
    return {} if namespace is None else {"namespace": namespace}


def _row(reply: Mapping[str, Any]) -> FactRow:
    # By name, so that a newer server may say more.
    return FactRow(**{field.name: reply[field.name] for field in fields(FactRow)})


def _written(reply: Mapping[str, Any]) -> Written:
    return Written(reply["version"], reply.get("upserted", 0), reply.get("deleted", 0))
