"""The demo's facts: well-formed, distinct, short enough, and what the README says about them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from kb.facts import Upsert
from kb.ndjson import read_batches

ROOT = Path(__file__).resolve().parents[2]
FACTS = ROOT / "server" / "demo" / "facts.ndjson"


def _facts() -> list[Upsert]:
    changes = [c for batch in read_batches([FACTS.read_bytes()]) for c in batch.changes]
    return [change for change in changes if isinstance(change, Upsert)]


def test_every_line_is_a_fact_of_the_default_namespace() -> None:
    facts = _facts()
    assert len(facts) == len(FACTS.read_text("utf-8").splitlines()) >= 200
    assert {fact.namespace for fact in facts} == {"default"}
    assert all(fact.metadata.keys() == {"topic"} for fact in facts)
    assert all(fact.expires_at is None for fact in facts)


def test_ids_and_texts_are_distinct() -> None:
    facts = _facts()
    assert len({fact.id for fact in facts}) == len(facts)
    assert len({fact.text for fact in facts}) == len(facts)


def test_facts_are_short_sentences() -> None:
    for fact in _facts():
        assert 15 <= len(fact.text.split()) <= 45, fact.id
        assert fact.text.endswith("."), fact.id


def test_relations_have_distractors() -> None:
    relations = Counter(str(fact.id).split("-")[0] for fact in _facts())
    assert sum(count >= 5 for count in relations.values()) >= 10


def test_readme_edits_a_fact_that_exists() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    body = re.search(r"-X PUT .*? -d '(\{.*?\})'\n```", readme, re.DOTALL)
    assert body
    edited = json.loads(body[1])["facts"][0]
    held = {str(fact.id): fact.text for fact in _facts()}
    assert "Mara Ellison" in held[edited["id"]]
    assert "Mara Ellison" not in edited["text"]
