"""What a start takes over from segments on disk, whatever it finds there, is what an index made anew would hold."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kb.facts import Delete, Upsert
from kb.index import namespace as index
from kb.index import quantized
from kb.index.attributes import Attributes
from kb.index.merging import Merged
from kb.index.postings import Postings
from kb.snapshot import Snapshot
from kb.store import Store
from tests.kb.hashing import HashEncoder

LATER = 4_000_000_000.0
# Few of everything, so that a fact often changes in one respect only, and back.
UPSERTS = st.builds(
    Upsert,
    st.sampled_from([f"f{number}" for number in range(8)]),
    st.sampled_from(["a", "a", "b"]),
    st.sampled_from(["text 0", "text 1", "!!!"]),
    st.sampled_from([{}, {"n": 1}, {"n": [1, "x", None]}]),
    st.sampled_from([None, None, LATER]),
)
EDITS = st.lists(UPSERTS, min_size=1, max_size=9, unique_by=lambda one: (one.namespace, one.id))
STEPS = st.lists(
    st.tuples(
        EDITS,
        st.sampled_from(["", "", "delete", "sweep", "rollback"]),
        st.sampled_from(["closed", "crashed", "older", "all", "damaged", "dropped"]),
        st.integers(0, 2**16),
    ),
    min_size=2,
    max_size=4,
)
EIGHT = [Upsert(f"f{number}", "a", f"text {number}", {"n": 1}, LATER) for number in range(8)]


def settle(store: Store) -> None:
    deadline = time.monotonic() + 20
    while any(one.merge_plan() for one in store.snapshot.indexes.values()):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def require_sound(snapshot: Snapshot) -> None:
    """The living rows of all segments hold what the facts say."""
    held: dict[str, dict[str, Any]] = {}
    for (namespace, fact_id), fact in sorted(snapshot.by_key.items()):
        held.setdefault(namespace, {})[fact_id] = fact
    assert held.keys() == set(snapshot.indexes)
    for namespace, facts in held.items():
        merged = Merged.of(snapshot.indexes[namespace].parts)
        terms = Postings.of(fact.text for fact in facts.values())
        values = Attributes.of(fact.metadata for fact in facts.values())
        assert list(merged.ids) == list(facts)
        assert merged.expires.tolist() == [fact.expires_at or math.inf for fact in facts.values()]
        assert np.array_equal(merged.matrix(), HashEncoder().embed([fact.text for fact in facts.values()]))
        for column in ("keys", "starts", "rows", "counts", "lengths"):
            assert np.array_equal(getattr(merged.postings, column), getattr(terms, column)), column
        assert merged.attributes.pairs == values.pairs
        assert np.array_equal(merged.attributes.starts, values.starts)
        assert np.array_equal(merged.attributes.rows, values.rows)


def copied(source: Path, target: Path) -> None:
    """As it is at this moment, while segments come and go."""
    for path in (source, *sorted(source.rglob("*"))):
        with suppress(FileNotFoundError):
            if path.is_dir():
                (target / path.relative_to(source)).mkdir()
            else:
                shutil.copy(path, target / path.relative_to(source))


def damage(files: list[Path], at: int) -> None:
    for path in files[at % len(files) :][:1] if files else ():
        data = bytearray(path.read_bytes())
        data[at % len(data)] ^= 1 << at % 8
        path.write_bytes(data)


def edit(store: Store, changes: list[Upsert], then: str, at: int) -> None:
    version = store.apply(changes).version
    if then == "delete":
        facts = sorted(store.snapshot.by_key)
        store.apply([Delete(fact_id, namespace) for namespace, fact_id in facts[:: at % 3 + 1]])
    if then == "sweep":
        store.sweep_expired(LATER)
    if then == "rollback":
        store.rollback(at % version)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
@example(steps=[(EIGHT, "", "closed", 0), ([Upsert("f3", "a", "text 3", {"n": 2}, LATER)], "", "closed", 0)])
@example(steps=[(EIGHT, "", "closed", 0), ([Upsert("f3", "a", "text 3", {"n": 1}, None)], "", "older", 0)])
def test_segments_found_at_a_start_hold_what_the_facts_say(steps: list[Any]) -> None:
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(index, DELTA_ROWS=2, DELTA_VALUES=12))
        stack.enter_context(mock.patch.object(quantized, "QUANTIZED_ROWS", 3))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory, backups = place / "0", []
        there = directory / "facts.db.index"
        store = Store.open(directory, HashEncoder())
        stack.callback(lambda: store.close())
        for number, (changes, then, found, at) in enumerate(steps, 1):
            edit(store, changes, then, at)
            if found == "crashed":
                copied(directory, place / str(number))
                store.close()
                directory = place / str(number)
            else:
                settle(store)
                require_sound(store.snapshot)
                store.close()
            there = directory / "facts.db.index"
            backups.append(shutil.copytree(there, place / f"backup {number}"))
            if found in ("older", "dropped"):
                shutil.rmtree(there)
            for backup in {"older": [backups[at % len(backups)]], "all": backups}.get(found, []):
                shutil.copytree(backup, there, dirs_exist_ok=True)
            if found == "damaged":
                damage(sorted(there.glob("*/*")), at)
            content = store.snapshot.by_key
            store = Store.open(directory, HashEncoder())
            assert store.snapshot.by_key == content
            require_sound(store.snapshot)
