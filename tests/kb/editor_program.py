"""Edits a store on command, in its own process: one JSON request a line on stdin, one JSON answer a line on stdout."""

from __future__ import annotations

import json
import resource
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

from kb.facts import Delete, KnowledgeError, Upsert, WriteFailed
from kb.store import Store

HashEncoder = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["HashEncoder"]


def content(store: Store) -> dict[str, str]:
    return {fact.id: fact.text for fact in store.snapshot.facts("default", time.time())}


def answer(store: Store, request: dict[str, Any]) -> dict[str, Any]:
    if "file_bytes" in request:  # the real limit of the kernel: writing beyond it fails with EFBIG
        limit = request["file_bytes"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return {"ok": True}
    if "read" in request:
        fact = store.snapshot.get("default", request["read"], time.time())
        return {"ok": True, "text": fact.text if fact else None}
    upserts = [Upsert(name, "default", text) for name, text in request.get("upsert", {}).items()]
    deletes = [Delete(name, "default") for name in request.get("delete", [])]
    try:
        commit = store.apply([*upserts, *deletes])
    except WriteFailed as error:
        return {"ok": False, "recorded": error.recorded, "error": str(error), "version": store.snapshot.version}
    except KnowledgeError as error:
        return {"ok": False, "error": repr(error)}
    return {"ok": True, "version": commit.version}


def main() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Store.open(sys.argv[1], HashEncoder()) as store:
        print(json.dumps({"version": store.snapshot.version, "content": content(store)}), flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(store, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
