"""A store in another process, which may be killed and whose disk may fail."""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kb.edit import Commit
from kb.facts import Delete, KnowledgeError, StoreUnavailable, Upsert, WriteFailed
from kb.log import compaction
from kb.publishing import Published
from kb.store import Store
from tests.kb.hashing import HashEncoder


class Editor:
    """The near end: asks one thing at a time."""

    def __init__(self, connection: Connection, kill: Callable[[], None]) -> None:
        self._connection = connection
        self.kill = kill
        self.start: dict[str, Any] = self.answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        self.send(**request)
        return self.answer()

    def send(self, **request: Any) -> None:
        self._connection.send(request)

    def answer(self) -> dict[str, Any]:
        """Raises EOFError when the editor died without one."""
        answer: dict[str, Any] = self._connection.recv()
        return answer


StartEditor = Callable[..., AbstractContextManager[Editor]]


@contextmanager
def start_editor(directory: Path | str, switch: Path | None = None) -> Iterator[Editor]:
    """Opens the store of `directory` (or at a URL) elsewhere; its fsync fails while the file `switch` exists."""
    context = multiprocessing.get_context("forkserver")
    near, far = context.Pipe()
    process = context.Process(target=_serve, args=(directory, far, switch), daemon=True)
    process.start()
    far.close()
    try:
        yield Editor(near, process.kill)
    finally:
        near.close()
        process.join()
        process.close()


def _serve(directory: Path | str, connection: Connection, switch: Path | None) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if switch is not None:
        os.environ["FAILING_DISK"] = str(switch)
    try:
        opened = Store.open(directory, HashEncoder())
    except StoreUnavailable:  # a database that was killed as well
        return
    with opened as store:
        content = {fact.id: fact.text for fact in store.snapshot.facts("default", time.time())}
        connection.send({"version": store.snapshot.version, "content": content})
        published: list[Published] = []
        store.subscribe(published.append)
        while True:
            try:
                request = connection.recv()
            except EOFError:
                return
            if "published" in request:
                connection.send({"events": [_event(one) for one in published], "log": store.past.log_entries(1000)})
            else:
                connection.send(_answer(store, request))


def _event(one: Published) -> tuple[int, str, int, int, tuple[str, ...], set[str]]:
    return one.version, one.kind, one.upserted, one.deleted, one.gone_texts, set(one.snapshot.texts())


def _answer(store: Store, request: dict[str, Any]) -> dict[str, Any]:
    if "file_bytes" in request:  # a limit of the kernel's: writing beyond it fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"], resource.RLIM_INFINITY))
        return {"ok": True}
    if "compacting" in request:
        threading.Thread(target=_keep_compacting, args=(store,), daemon=True).start()
        return {"ok": True}
    if "read" in request:
        fact = store.snapshot.get("default", request["read"], time.time())
        return {"ok": True, "text": fact.text if fact else None}
    try:
        if "compact" in request:
            return {"ok": True, "gone": store.compact(math.inf), "oldest": store.past.oldest()}
        commit = _edit(store, request)
    except WriteFailed as error:
        return {"ok": False, "recorded": error.recorded, "error": str(error), "version": store.snapshot.version}
    except KnowledgeError as error:
        return {"ok": False, "error": repr(error)}
    return {"ok": True, "version": commit.version}


def _keep_compacting(store: Store) -> None:
    """Lets go what may go, whatever its age, a few entries at a time."""
    compaction.ENTRIES_PER_STEP = 4
    while True:
        if not store.compact(math.inf):
            time.sleep(0.001)


def _edit(store: Store, request: dict[str, Any]) -> Commit:
    if "rollback" in request:
        return store.rollback(request["rollback"])
    upserts = [Upsert(name, "default", text) for name, text in request.get("upsert", {}).items()]
    deletes = [Delete(name, "default") for name in request.get("delete", [])]
    return store.apply([*upserts, *deletes])
