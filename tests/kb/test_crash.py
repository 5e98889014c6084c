"""kill -9 in the middle of edits."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from kb.store import Store
from tests.kb.editing import Editor, StartEditor

BATCHES = 200
KILLS = 24


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


def edit_until_killed(editor: Editor, expected: range, edits: int, delay: float) -> tuple[int, int]:
    """Has some batches applied, sends another and kills the editor `delay` seconds later: (acknowledged, sent)."""
    done: int = editor.start["version"]
    assert done in expected
    assert editor.start["content"] == content_after(done)
    last = min(done + edits, BATCHES - 1)
    for number in range(done, last):
        assert editor.ask(**request(number)) == {"ok": True, "version": number + 1}
    editor.send(**request(last))
    time.sleep(delay)
    editor.kill()
    try:
        editor.answer()
    except (EOFError, ConnectionResetError):
        return last, last + 1
    return last + 1, last + 1


def test_the_acknowledged_batches_survive_kill_9(tmp_path: Path, editors: StartEditor, encoder: Any) -> None:
    random_source = random.Random(20_240_607)
    acknowledged, sent = 0, 0
    for _ in range(KILLS):
        edits = random_source.randrange(2 * BATCHES // KILLS)
        delay = random_source.uniform(0, 0.004)  # a batch takes about two milliseconds
        expected = range(acknowledged, sent + 1)
        with editors(tmp_path) as editor:
            if editor.start["version"] == BATCHES:
                break
            acknowledged, sent = edit_until_killed(editor, expected, edits, delay)
    with editors(tmp_path) as editor:  # what a slow machine has left
        assert editor.start["version"] in range(acknowledged, sent + 1)
        for number in range(editor.start["version"], BATCHES):
            assert editor.ask(**request(number)) == {"ok": True, "version": number + 1}
        editor.kill()
    # The last store, looked at from within: facts, versions and index agree.
    with Store.open(tmp_path, encoder) as store:
        snapshot = store.snapshot
        assert snapshot.version == BATCHES
        facts = list(snapshot.facts("default", time.time()))
        assert {fact.id: fact.text for fact in facts} == content_after(BATCHES)
        for fact in facts:
            hits = snapshot.search("default", encoder.embed([fact.text])[0], 1, 0.99, time.time())
            assert [hit.fact.text for hit in hits] == [fact.text]
            assert request(fact.version - 1)["upsert"][fact.id] == fact.text
        assert [entry.version for entry in store.past.log_entries(limit=BATCHES)] == list(range(BATCHES, 0, -1))
