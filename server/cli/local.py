"""The `kb` commands on a store directory that no server has open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from kb.edit import Commit
from kb.encoder.minilm import MiniLMEncoder
from kb.facts import (
    DEFAULT_NAMESPACE,
    Delete,
    Fact,
    FactNotFound,
    InvalidChange,
    KnowledgeError,
    SearchMethod,
    StoreLocked,
    Upsert,
    VersionConflict,
)
from kb.filters import parse_filter
from kb.importing import imported
from kb.loading import Progress
from kb.ndjson import export_lines, read_batches
from kb.store import Store
from kb.verification import Verified
from server.cli.console import CONFLICT, FAILED, NOT_FOUND, CommandError, progress_bar
from server.cli.targets import FactRow, HistoryRow, HitRow, NewFact, Written

DEFAULT_TOP_K = 8
Check: TypeAlias = Callable[[Path, Progress], Verified]


@contextmanager
def open_store(directory: Path) -> Iterator[StoreTarget]:
    """Raises CommandError, also for a directory that does not exist: only a server makes new stores."""
    _require_directory(directory)
    with progress_bar() as bar, _told():
        task = bar.add_task("opening the store", total=None)
        encoder = MiniLMEncoder()
        store = Store.open(
            directory,
            encoder,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    with store:
        yield StoreTarget(store, encoder)


class StoreTarget:
    """A KnowledgeTarget."""

    def __init__(self, store: Store, encoder: MiniLMEncoder) -> None:
        self._store = store
        self._encoder = encoder

    def put(self, fact: NewFact) -> Written:
        with _told():
            change = Upsert(fact.id, _named(fact.namespace), fact.text, fact.metadata, fact.expires_at, fact.if_version)
            return _written(self._store.apply([change]))

    def get(self, namespace: str | None, fact_id: str) -> FactRow:
        fact = self._store.snapshot.get(_named(namespace), fact_id, time.time())
        if fact is None:
            raise CommandError(f"no fact {fact_id!r} in namespace {_named(namespace)!r}", NOT_FOUND)
        return _row(fact)

    def delete(self, namespace: str | None, fact_id: str, if_version: int | None) -> Written:
        with _told():
            return _written(self._store.apply([Delete(fact_id, _named(namespace), if_version)]))

    def search(
        self,
        namespace: str | None,
        query: str,
        top_k: int | None,
        min_score: float | None,
        retrieval: SearchMethod | None,
        filter: str | None,
    ) -> list[HitRow]:
        vector = self._encoder.embed([query])[0]
        k = DEFAULT_TOP_K if top_k is None else top_k
        least = -1.0 if min_score is None else min_score
        method = retrieval or "hybrid"
        with _told():
            where = None if filter is None else parse_filter(filter)
        hits = self._store.snapshot.search(
            _named(namespace), vector, k, least, time.time(), text=query, method=method, where=where
        )
        return [HitRow(hit.score, hit.lexical, _row(hit.fact)) for hit in hits]

    def import_lines(self, chunks: Iterable[bytes]) -> Written:
        written = Written(self._store.snapshot.version)
        with _told():
            try:
                batches = read_batches(chunks, limits=self._store.limits)
                for commit in imported(self._store, (batch.changes for batch in batches)):
                    written = Written(
                        commit.version, written.upserted + commit.upserted, written.deleted + commit.deleted
                    )
            except KnowledgeError as error:
                raise CommandError(f"{_message(error)} ({written.upserted} facts were imported)") from error
        return written

    def export_lines(self, namespace: str | None) -> Iterator[bytes]:
        yield from export_lines(self._store.snapshot.facts(namespace, time.time()))

    def count(self, namespace: str | None) -> int:
        return self._store.snapshot.count(namespace)

    def history(self, namespace: str | None, fact_id: str | None, limit: int, before: int | None) -> list[HistoryRow]:
        with _told():
            if fact_id is None:
                return [
                    HistoryRow(e.version, e.created_at, f"{e.kind}: +{e.upserted} -{e.deleted}")
                    for e in self._store.past.log_entries(limit, before)
                ]
            return [
                HistoryRow(v.version, v.created_at, f"{v.kind}: {v.op}", v.text)
                for v in self._store.past.history(_named(namespace), fact_id, limit, before)
            ]

    def rollback(self, version: int) -> Written:
        with _told():
            return _written(self._store.rollback(version))


def check_log(directory: Path, check: Check) -> Verified:
    """What `verify` or `accept_log` finds in a store that no server has open. Raises CommandError."""
    _require_directory(directory)
    with progress_bar() as bar, _told():
        task = bar.add_task("reading the log", total=None)
        return check(directory, lambda done, total: bar.update(task, completed=done, total=total))


def _require_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise CommandError(f"{directory} is not a directory", NOT_FOUND)


@contextmanager
def _told() -> Iterator[None]:
    """The store's refusals as command errors."""
    try:
        yield
    except KnowledgeError as error:
        codes = {FactNotFound: NOT_FOUND, VersionConflict: CONFLICT}
        raise CommandError(_message(error), codes.get(type(error), FAILED)) from error


def _message(error: KnowledgeError) -> str:
    if isinstance(error, StoreLocked):
        return f"{error}. If that is a server, use --server instead of --store."
    if isinstance(error, InvalidChange):
        return "; ".join(f"{problem.field}: {problem.message}" for problem in error.problems)
    return str(error)


def _written(commit: Commit) -> Written:
    return Written(commit.version, commit.upserted, commit.deleted)


def _row(fact: Fact) -> FactRow:
    return FactRow(
        fact.id,
        fact.namespace,
        fact.text,
        dict(fact.metadata),
        fact.expires_at,
        fact.version,
        fact.created_at,
    )


def _named(namespace: str | None) -> str:
    return DEFAULT_NAMESPACE if namespace is None else namespace
