"""Questions about the news, each with the lines of an article that answer it (RealTimeQA). For evaluation only: what is
trained on it may not be shipped."""

from __future__ import annotations

import random
from pathlib import Path

from lab.errors import DataError
from lab.questions.question import Fact, Pool, Question, Split, split_of
from lab.questions.rows import read_rows
from lab.questions.squad import FACTS_PER_QUESTION

FILE = "realtimeqa_2020_2024.jsonl.gz"
WORDS = (25, 200)


def load(directory: Path, split: Split, questions: int, seed: int) -> Pool:
    """A pool of up to `questions` questions, their passages and others. DataError, also for any split but test."""
    if split != "test":
        raise DataError("news is a set to be judged by alone: it has no questions to learn from")
    rng = random.Random(f"news:{seed}")
    fields = ("question_sentence", "evidence_plain")
    rows: dict[str, Question] = {}
    for row in read_rows(directory / FILE, (), ("answer_text",)):
        if not all(isinstance(row.get(name), str) for name in fields):
            continue  # some have no evidence
        text, answers = " ".join(row["evidence_plain"].split()), tuple(row["answer_text"])
        question = row["question_sentence"].strip()
        if WORDS[0] <= len(text.split()) <= WORDS[1] and answers and answers[0].strip() and answers[0] in text:
            numeric = answers[0][:1].isdigit()
            rows.setdefault(text, Question("news", question, "", question, answers, answers[0], (text,), numeric))
    everything = [one for one in rows.values() if split_of(one.subject) != "train"]
    asked = rng.sample(everything, min(questions, len(everything)))
    asked_texts = {one.facts[0] for one in asked}
    others = [one for one in rows.values() if one.facts[0] not in asked_texts]
    kept = rng.sample(others, min(len(others), questions * (FACTS_PER_QUESTION - 1)))
    return Pool("news", tuple(asked), tuple(Fact(one.facts[0], one.subject, "") for one in (*asked, *kept)))
