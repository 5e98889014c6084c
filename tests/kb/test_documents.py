"""Plans of documents, applied: whatever was before, a document is its pieces then, and nothing else has changed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb.documents import ID_FIELD, Document, DocumentConflict, Outdated, Piece, documents, plan
from kb.edit import Prepared
from kb.facts import Delete, Upsert
from kb.filters import OneOf
from kb.store import Store
from tests.kb.hashing import HashEncoder

TEXTS = st.sampled_from(["one", "two", "three", "four"])
PIECES = st.lists(TEXTS, max_size=5).map(lambda texts: [Piece(text, 10 * n) for n, text in enumerate(texts)])
DOCUMENTS = st.builds(
    Document,
    st.sampled_from(["a", "b", "a:b"]),
    st.sampled_from(["default", "other"]),
    PIECES,
    st.sampled_from([{}, {"town": "Velm"}]),
    single=st.booleans(),
)


def held(store: Store, document: Document) -> list[Any]:
    facts = store.snapshot.facts(document.namespace, 0.0, OneOf(ID_FIELD, (document.id,)))
    return sorted(facts, key=lambda fact: fact.metadata["document"]["part"])


def apply(store: Store, document: Document) -> int:
    """How many facts were changed."""
    wanted = plan(store.snapshot, document)
    if wanted.changes:
        prepared = store.prepare(wanted.changes)
        store.commit(Prepared(prepared.changes, prepared.vectors), wanted.require_current)
    return len(wanted.changes)


@settings(deadline=None, max_examples=15)
@given(st.lists(DOCUMENTS, min_size=1, max_size=6))
def test_a_document_is_its_pieces_and_others_are_as_they_were(edits: list[Document]) -> None:
    with tempfile.TemporaryDirectory() as directory, Store.open(Path(directory) / "kb", HashEncoder()) as store:
        expected: dict[tuple[str, str], list[tuple[str, Any]]] = {}
        for document in edits:
            apply(store, document)
            single = document.single and len(document.pieces) == 1
            pieces = [] if single else document.pieces
            expected[document.namespace, document.id] = [(piece.text, piece.offset) for piece in pieces]
            if document.single:
                plain = store.snapshot.find(document.namespace, document.id)
                assert (plain.text if plain else None) == (document.pieces[0].text if single else None)
            assert apply(store, document) == 0
            for (namespace, name), wanted in expected.items():
                facts = held(store, Document(name, namespace, ()))
                assert [(fact.text, fact.metadata["document"]["offset"]) for fact in facts] == wanted
        for namespace in ("default", "other"):
            names = sorted(name for (space, name), wanted in expected.items() if space == namespace and wanted)
            found = documents(store.snapshot, namespace, 10, None, 0.0).documents
            assert [one.id for one in found] == names
            assert [one.facts for one in found] == [len(expected[namespace, name]) for name in names]


def test_texts_that_stay_keep_ids_and_those_in_place_their_versions(store: Store) -> None:
    first = [Piece("one", 0), Piece("two", 10), Piece("two", 20)]
    apply(store, Document("a", "default", first))
    before = held(store, Document("a", "default", ()))
    assert len({fact.id for fact in before}) == 3
    assert apply(store, Document("a", "default", [first[0], Piece("new", 10), first[2]])) == 3
    after = held(store, Document("a", "default", ()))
    assert after[0] == before[0]
    assert after[2].id == before[1].id


def test_versions_are_expected(store: Store) -> None:
    document = Document("a", "default", [Piece("one", 0)], if_version=0)
    apply(store, document)
    with pytest.raises(DocumentConflict):
        plan(store.snapshot, document, 3)
    version = documents(store.snapshot, "default", 1, None, 0.0).documents[0].version
    assert plan(store.snapshot, Document("a", "default", [], if_version=version)).changes


def test_a_plan_is_outdated_by_any_change_of_the_document(store: Store) -> None:
    apply(store, Document("a", "default", [Piece("one", 0), Piece("two", 10)]))
    wanted = plan(store.snapshot, Document("a", "default", [Piece("three", 0)]))
    store.apply([Upsert("x", "default", "another fact"), Upsert("x", "other", "one")])
    wanted.require_current(store.snapshot)
    (first, _) = held(store, Document("a", "default", ()))
    store.apply([Delete(first.id, "default")])
    version = store.snapshot.version
    with pytest.raises(Outdated):
        store.commit(store.prepare(wanted.changes), wanted.require_current)
    assert store.snapshot.version == version
