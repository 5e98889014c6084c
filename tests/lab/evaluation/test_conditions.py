"""The same mounted facts, given in different ways."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch

from kan.knowledge.adapter import new_adapter
from kan.knowledge.fit import Fit
from kan.knowledge.phi import gap_phi
from lab.evaluation.conditions import Tuned, bare, conditions, gold_alone, gold_seen, mounted, pasted
from lab.evaluation.subject import Ask, Given, Reply, Respondent, Setup, Subject
from tests.lab.evaluation.invented import FACTS, FITS, MOUNTED


def ask_all(respondent: Respondent, setup: Setup, *asks: Ask) -> list[Reply]:
    """Replies; the engine may be used from one event loop after another."""
    return asyncio.run(respondent.answers(setup, asks))


def test_views_of_the_same_mounting() -> None:
    facts = tuple(map(Given, FACTS, FITS))
    assert bare(MOUNTED) == Ask("How old is Mara?")
    assert mounted(MOUNTED) == Ask("How old is Mara?", facts)
    assert pasted(MOUNTED) == Ask("How old is Mara?", facts, mounted=False)
    assert gold_alone(MOUNTED).facts == (("Mara is 42 years old.", FITS[1]),)
    assert [one.fit for one in gold_seen(MOUNTED).facts] == [Fit(-1), Fit(1), Fit(-1)]


def test_one_fact_pasted_is_one_fact_mounted(subject: Subject, respondent: Respondent) -> None:
    one = Ask("Who?", (Given("Mara runs the depot.", Fit(0.5)),), logprobs=3)
    by_page, by_text = ask_all(respondent, Setup(subject.model, None), one, replace(one, mounted=False))
    assert by_page.text == by_text.text
    for a, b in zip(by_page.logprobs, by_text.logprobs, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-9)
    assert len(by_page.attention) == 1
    assert by_text.attention == ()


def test_the_oracle_sees_gold_alone(subject: Subject, respondent: Respondent) -> None:
    """A distractor is hidden: another text of the same length in its place changes nothing."""
    rows = {row.name: row for row in conditions(subject, Tuned())}
    other = replace(MOUNTED, facts=("Xxxx is 99.", MOUNTED.facts[1], "Line 5 is soon."))
    asks = [replace(rows["oracle"].view(one), logprobs=0) for one in (MOUNTED, other)]
    a, b = ask_all(respondent, rows["oracle"].setup, *asks)
    assert [one.logprob for one in a.logprobs] == pytest.approx([one.logprob for one in b.logprobs], abs=1e-9)
    assert a.attention[0] == pytest.approx(0)
    assert a.attention[1] > 0


def test_rows_of_the_table(subject: Subject) -> None:
    rows = conditions(subject, Tuned(10.0, 0.5, 2.0))
    assert [row.name for row in rows] == [
        "none", "prompt", "zero", "ceiling", "kblam", "scaled", "gap", "learned", "ceiling_phi", "oracle",
    ]  # fmt: skip
    config = subject.model.config
    built_in = replace(subject, learned=gap_phi(config.num_layers, config.num_heads, config.head_dim))
    assert "gap" not in [row.name for row in conditions(built_in, Tuned())]
    width = 2 * config.num_kv_heads * config.head_dim
    adapted = replace(subject.learned, adapter=new_adapter(torch.ones(config.num_layers, 1, width), 2, seed=0))
    without = {row.name: row for row in conditions(replace(subject, learned=adapted), Tuned())}["splines"].setup.phi
    assert without is not None
    assert without.adapter is None
    assert torch.equal(without.coefficients, adapted.coefficients)


def test_conditions_that_depend_on_phi_say_so(subject: Subject) -> None:
    for one in conditions(subject, Tuned()):
        assert one.uses_phi == (one.setup.phi is subject.learned)


def test_replies_come_in_the_order_of_the_questions(subject: Subject, respondent: Respondent) -> None:
    asks = [Ask(f"Question {number}?") for number in range(40)]
    setup = Setup(subject.model, None)
    done: list[int] = []
    together = asyncio.run(respondent.answers(setup, asks, done.append))
    assert sum(done) == 40
    assert [one.text for one in together[:3]] == [ask_all(respondent, setup, ask)[0].text for ask in asks[:3]]
