"""Questions about countries and territories, from CIA World Factbook rows (subject, relation, object)."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.questions.factbook_places import place_name
from lab.questions.factbook_relations import Phrasing, is_curated, phrasing_of
from lab.questions.factbook_values import Value, value_of
from lab.questions.question import Fact, Pool, Question, Split, split_of
from lab.questions.rows import read_rows
from lab.questions.wording import choose, possessive, sentence_case, styled

FACTS_FILE = "factbook_facts_2026.jsonl.gz"
CHANGES_FILE = "factbook_changed_2021_to_2026.jsonl.gz"
SUBJECTS_PER_RELATION = 24
FACTS_PER_QUESTION = 2
"""Every relation in a pool comes with many subjects, every subject with many relations: both are hard distractors."""
CURATED_SHARE = 0.75
"""Of the facts in a pool: their relations are phrased by hand."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A value that changed. `question` has the new fact and the new value; both facts are worded alike."""

    question: Question
    old_fact: str
    old_answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    subject: str
    relation: str
    value: Value


def load(directory: Path, split: Split, questions: int, seed: int) -> Pool:
    """A pool of up to `questions` questions, and twice as many facts. Raises DataError."""
    rng = random.Random(f"factbook:{split}:{seed}")
    entries = _sample(_entries(directory / FACTS_FILE, split), questions * FACTS_PER_QUESTION, rng)
    facts = [_fact(entry, rng) for entry in entries]
    asked = sorted(rng.sample(range(len(entries)), min(questions, len(entries))))
    return Pool(
        "factbook",
        tuple(_question(entries[place], facts[place].text, split, rng) for place in asked),
        tuple(facts),
    )


def load_edits(directory: Path, split: Split, questions: int, seed: int) -> tuple[Edit, ...]:
    """Up to `questions` real changes between 2021 and 2026 with clean, different values. Raises DataError."""
    rng = random.Random(f"factbook edits:{split}:{seed}")
    changes: dict[tuple[str, str], tuple[Value, Value]] = {}
    for row in read_rows(directory / CHANGES_FILE, ("subject", "relation", "old", "new")):
        subject, relation = row["subject"], row["relation"].strip()
        if place_name(subject) is None or split_of(subject) != split:
            continue
        old, new = value_of(relation, row["old"]), value_of(relation, row["new"])
        if old and new and _differ(old, new):
            changes.setdefault((subject, relation), (old, new))
    keys = _balanced(sorted(changes), questions, rng)
    return tuple(_edit(subject, relation, *changes[subject, relation], split, rng) for subject, relation in keys)


def _entries(path: Path, split: Split) -> list[_Entry]:
    """One per subject and relation: the file repeats some."""
    entries: dict[tuple[str, str], _Entry] = {}
    for row in read_rows(path, ("subject", "relation", "object")):
        subject, relation = row["subject"], row["relation"].strip()
        unusable = (subject, relation) in entries or "note" in relation or place_name(subject) is None
        if unusable or split_of(subject) != split:
            continue
        value = value_of(relation, row["object"])
        if value and value.answers[0].casefold() not in subject.casefold():
            entries[subject, relation] = _Entry(subject, relation, value)
    return list(entries.values())


def _sample(entries: Sequence[_Entry], count: int, rng: random.Random) -> list[_Entry]:
    """About `count` of them: many subjects for each of some relations, most of these phrased by hand."""
    by_relation: defaultdict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        by_relation[entry.relation].append(entry)
    groups = [_some(group, SUBJECTS_PER_RELATION, rng) for _, group in sorted(by_relation.items()) if len(group) > 3]
    curated = [group for group in groups if is_curated(group[0].relation)]
    others = [group for group in groups if not is_curated(group[0].relation)]
    chosen = _fill(curated, round(count * CURATED_SHARE), rng)
    return chosen + _fill(others, count - len(chosen), rng)


def _some(group: list[_Entry], count: int, rng: random.Random) -> list[_Entry]:
    return rng.sample(group, min(count, len(group)))


def _fill(groups: list[list[_Entry]], count: int, rng: random.Random) -> list[_Entry]:
    """Whole groups in random order until there are `count`; the last one may be cut."""
    chosen: list[_Entry] = []
    for group in rng.sample(groups, len(groups)):
        chosen += group[: count - len(chosen)]
    return chosen


def _balanced(keys: Sequence[tuple[str, str]], count: int, rng: random.Random) -> list[tuple[str, str]]:
    """One of each relation, then a second of each, and so on; all of the relations phrased by hand come first."""
    turns: Counter[str] = Counter()
    ranked = []
    for subject, relation in rng.sample(keys, len(keys)):
        ranked.append((not is_curated(relation), turns[relation], (subject, relation)))
        turns[relation] += 1
    ranked.sort(key=lambda entry: entry[:2])
    return [key for _, _, key in ranked[:count]]


def _differ(old: Value, new: Value) -> bool:
    """Neither value's answer is found in the other's text, so a reply can be told to be old or new."""
    return not any(a in new.text for a in old.answers) and not any(a in old.text for a in new.answers)


def _fact(entry: _Entry, rng: random.Random) -> Fact:
    wording = rng.choice(phrasing_of(entry.relation).facts)
    return Fact(_say(wording, entry.subject, entry.relation, entry.value), entry.subject, entry.relation)


def _question(entry: _Entry, fact: str, split: Split, rng: random.Random) -> Question:
    phrasing, value = phrasing_of(entry.relation), entry.value
    text, reply = styled(
        _say(choose(phrasing.questions, split, rng), entry.subject, entry.relation, value),
        sentence=_say(rng.choice(phrasing.facts), entry.subject, entry.relation, value),
        value=value.text,
        it_is=f"{phrasing.it} {value.text}.",
        split=split,
        rng=rng,
    )
    return Question("factbook", entry.subject, entry.relation, text, value.answers, reply, (fact,), value.numeric)


def _edit(subject: str, relation: str, old: Value, new: Value, split: Split, rng: random.Random) -> Edit:
    wording = rng.choice(phrasing_of(relation).facts)
    question = _question(_Entry(subject, relation, new), _say(wording, subject, relation, new), split, rng)
    return Edit(question, _say(wording, subject, relation, old), old.answers)


def _say(wording: str, subject: str, relation: str, value: Value) -> str:
    name = place_name(subject) or subject
    phrasing: Phrasing = phrasing_of(relation)
    return sentence_case(wording.format(s=name, ps=possessive(name), n=phrasing.noun, be=phrasing.be, v=value.text))
