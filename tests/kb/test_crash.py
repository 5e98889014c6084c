"""kill -9 in the middle of edits."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kb.store import Store

BATCHES = 200
KILLS = 12


def request(number: int) -> dict[str, Any]:
    """The batch of a number: some facts made or replaced, and one of an earlier batch deleted."""
    upserts = {f"f{(number * 7 + step) % 60}": f"text {number} {step}" for step in range(1 + number % 5)}
    upserts[f"own{number}"] = f"own {number}"
    return {"upsert": upserts, "delete": [f"own{number - 10}"] if number >= 10 else []}


def content_after(number: int) -> dict[str, str]:
    content: dict[str, str] = {}
    for earlier in range(number):
        content.update(request(earlier)["upsert"])
        for gone in request(earlier)["delete"]:
            del content[gone]
    return content


def edit_until_killed(program: Path, directory: Path, expected: set[int], delay: float) -> tuple[int, int]:
    """Starts the editor, lets it edit for `delay` seconds and kills it: (acknowledged, sent) batches in all."""
    command = [sys.executable, str(program), str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        start = json.loads(process.stdout.readline())
        done = start["version"]
        assert done in expected
        assert start["content"] == content_after(done)
        killer = threading.Timer(delay, process.kill)
        killer.start()
        sent = done
        try:
            while sent < BATCHES:
                process.stdin.write(json.dumps(request(sent)) + "\n")
                process.stdin.flush()
                sent += 1
                answer = process.stdout.readline()
                if not answer:
                    break
                assert json.loads(answer) == {"ok": True, "version": sent}
                done = sent
        except BrokenPipeError:
            pass
        killer.join()
        process.wait()
        process.stdin = None  # its buffer holds a request that nobody will read
    return done, sent


def test_the_acknowledged_batches_survive_kill_9(
    tmp_path: Path, editor_program: Path, make_encoder: Callable[[], Any]
) -> None:
    random_source = random.Random(20_240_607)
    acknowledged, sent = 0, 0
    kills = 0
    while acknowledged < BATCHES:
        # A batch takes about two milliseconds; a run gets through about a twelfth of them.
        delay = random_source.uniform(0.005, 2 * 0.002 * BATCHES / KILLS)
        acknowledged, sent = edit_until_killed(editor_program, tmp_path, set(range(acknowledged, sent + 1)), delay)
        kills += 1
        assert kills < 5 * KILLS, "the machine is too slow for this test"
    assert kills > 2
    # The last store, looked at from within: facts, versions and index agree.
    encoder = make_encoder()
    with Store.open(tmp_path, encoder) as store:
        snapshot = store.snapshot
        assert snapshot.version == BATCHES
        facts = list(snapshot.facts("default", time.time()))
        assert {fact.id: fact.text for fact in facts} == content_after(BATCHES)
        for fact in facts:
            hits = snapshot.search("default", encoder.embed([fact.text])[0], 1, 0.99, time.time())
            assert [hit.fact.text for hit in hits] == [fact.text]
            assert request(fact.version - 1)["upsert"][fact.id] == fact.text
        assert [entry.version for entry in store.log_entries(limit=BATCHES)] == list(range(BATCHES, 0, -1))
