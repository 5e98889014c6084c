"""kill -9 while history is let go and edits go on. DEATHS: how many of the long run (`make test-kills`)."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from kb.store import Store
from kb.verification import verify
from tests.kb.editing import StartEditor
from tests.kb.test_crash import content_after, edit_until_killed

DEATHS = int(os.environ.get("DEATHS", "200"))
SEED = int(os.environ.get("SEED", "1"))
EDITS = 12
"""Of each life, at most."""


@pytest.mark.timeout(300 + 5 * DEATHS)
@pytest.mark.parametrize("deaths", [3, pytest.param(DEATHS, marks=pytest.mark.slow)])
def test_nothing_acknowledged_is_lost(tmp_path: Path, editors: StartEditor, encoder: Any, deaths: int) -> None:
    draw = random.Random(SEED)
    acknowledged, sent, oldest = 0, 0, 0
    for death in range(deaths):
        if sent > 150:  # as many different batches there are
            oldest, acknowledged, sent = 0, 0, 0
            tmp_path = tmp_path / str(death)
        with editors(tmp_path) as editor:
            assert editor.ask(compacting=True)["ok"]
            expected = range(acknowledged, sent + 1)
            acknowledged, sent = edit_until_killed(editor, expected, draw.randrange(EDITS), draw.uniform(0, 0.01))
        if death % 10 == 0:
            assert verify(tmp_path).version in range(acknowledged, sent + 1)
    with Store.open(tmp_path, encoder) as store:
        assert store.snapshot.version in range(acknowledged, sent + 1)
        oldest = store.past.oldest()
        assert oldest > 0
        for version in range(oldest, store.snapshot.version + 1):
            assert {key[1]: fact.text for key, fact in store.past.facts_at(version).items()} == content_after(version)
    assert verify(tmp_path).version in range(acknowledged, sent + 1)
