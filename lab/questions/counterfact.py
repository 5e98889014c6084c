"""Questions about facts that contradict what a model believes, from CounterFact rows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.questions.counterfact_phrases import completions, relation_of, stem_of
from lab.questions.question import Fact, Pool, Question, Split, split_of
from lab.questions.rows import read_rows
from lab.questions.wording import choose, ended, sentence_case, styled

FILE = "counterfact.jsonl.gz"
FACTS_PER_QUESTION = 2
NATURAL_SHARE = 0.5
"""Of the questions; the others have a sentence completed."""

_COLUMNS = (
    "prompt",
    "target_new",
    "subject",
    "ground_truth",
    "rephrase_prompt",
    "locality_prompt",
    "locality_ground_truth",
)


@dataclass(frozen=True, slots=True)
class CounterfactEdit:
    """An edit as CounterFact judges it: by the prompt itself, reworded, and by a neighbour that must not change."""

    question: Question
    """Its text is the set's bare prompt, its fact and answer the new value."""
    ground_truth: str
    """What was true before."""
    paraphrase: str
    locality_prompt: str
    locality_ground_truth: str


@dataclass(frozen=True, slots=True)
class _Row:
    fields: dict[str, str]
    stem: str

    @property
    def fact(self) -> str:
        stem, target = self.stem.format(self.fields["subject"]), self.fields["target_new"]
        if stem.endswith(" a") and target[0] in "aeiou":
            stem += "n"
        elif stem.endswith(" an") and target[0] not in "aeiou":
            stem = stem[:-1]
        return ended(sentence_case(f"{stem} {target}"))


def load(directory: Path, split: Split, questions: int, seed: int) -> Pool:
    """A pool of up to `questions` questions, and twice as many facts. Raises DataError."""
    rng = random.Random(f"counterfact:{split}:{seed}")
    rows = list(_rows(directory, split))
    rows = rng.sample(rows, min(len(rows), questions * FACTS_PER_QUESTION))
    facts = [Fact(row.fact, row.fields["subject"], relation_of(row.stem)[0]) for row in rows]
    return Pool("counterfact", tuple(_question(row, split, rng) for row in rows[:questions]), tuple(facts))


def load_counterfact_edits(directory: Path, split: Split, questions: int, seed: int) -> tuple[CounterfactEdit, ...]:
    """Up to `questions` edits. Raises DataError."""
    rng = random.Random(f"counterfact edits:{split}:{seed}")
    rows = list(_rows(directory, split))
    return tuple(_edit(row) for row in rng.sample(rows, min(len(rows), questions)))


def _rows(directory: Path, split: Split) -> Iterator[_Row]:
    """Rows that make a sentence, one per subject: several edits of one subject may contradict each other."""
    seen = set()
    for row in read_rows(directory / FILE, _COLUMNS):
        subject = row["subject"]
        if subject in seen or split_of(subject) != split or row["target_new"] in ("", "Yes", "No", row["ground_truth"]):
            continue
        if row["target_new"].casefold() in subject.casefold():
            continue
        if stem := stem_of(row["prompt"], subject):
            seen.add(subject)
            yield _Row({name: row[name] for name in _COLUMNS}, stem)


def _question(row: _Row, split: Split, rng: random.Random) -> Question:
    subject, target = row.fields["subject"], row.fields["target_new"]
    relation, natural = relation_of(row.stem)
    if natural and rng.random() < NATURAL_SHARE:
        asked = choose(natural, split, rng).format(s=subject)
    else:
        stem = row.stem.format(subject) if rng.random() < 0.5 else row.fields["prompt"]
        asked = choose(completions(), split, rng).format(sentence_case(stem))
    text, reply = styled(asked, sentence=row.fact, value=target, it_is=f"It is {target}.", split=split, rng=rng)
    return Question("counterfact", subject, relation, text, (target,), reply, (row.fact,), numeric=False)


def _edit(row: _Row) -> CounterfactEdit:
    fields = row.fields
    target = fields["target_new"]
    question = Question(
        "counterfact",
        fields["subject"],
        relation_of(row.stem)[0],
        fields["prompt"],
        (target,),
        ended(target),
        (row.fact,),
        numeric=False,
    )
    return CounterfactEdit(
        question,
        fields["ground_truth"],
        fields["rephrase_prompt"],
        fields["locality_prompt"],
        fields["locality_ground_truth"],
    )
