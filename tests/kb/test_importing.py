"""Batches that are written while others are embedded are the same as one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kb.facts import Delete, FactNotFound, InvalidChange, Upsert
from kb.importing import imported
from kb.store import Store
from tests.kb.hashing import HashEncoder

CHANGES = st.one_of(
    st.builds(Upsert, st.sampled_from("abc"), st.just("default"), st.sampled_from(["one", "two", "three"])),
    st.builds(Delete, st.sampled_from("abc"), st.just("default")),
    st.just(Upsert("d", "default", "")),  # is refused
)
BATCHES = st.lists(st.lists(CHANGES, min_size=1, max_size=3, unique_by=lambda one: one.id), max_size=5)


def told(store: Store) -> list[tuple[str, str, int]]:
    return [(fact.id, fact.text, fact.version) for fact in store.snapshot.facts("default", 0.0)]


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(batches=BATCHES)
def test_what_is_imported_is_what_edits_one_by_one_make(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Upsert | Delete]]
) -> None:
    outcomes = []
    for together in (True, False):
        with Store.open(tmp_path_factory.mktemp("kb"), HashEncoder()) as store:
            commits, failed = [], None
            try:
                commits.extend(imported(store, batches) if together else map(store.apply, batches))
            except (FactNotFound, InvalidChange) as error:
                failed = str(error)
            outcomes.append((commits, failed, told(store)))
    assert outcomes[0] == outcomes[1]


def test_a_file_that_ends_in_the_midst_leaves_what_was_before(tmp_path: Path) -> None:
    def lines() -> object:
        yield [Upsert("a", "default", "one")]
        raise OSError("gone")

    with Store.open(tmp_path, HashEncoder()) as store:
        commits = imported(store, lines())  # type: ignore[arg-type]
        assert next(commits).version == 1
        with pytest.raises(OSError, match="gone"):
            next(commits)
        assert told(store) == [("a", "one", 1)]
