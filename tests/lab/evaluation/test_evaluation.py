"""The evaluation's machinery, on a tiny model whose answers mean nothing; and the smoke run on the real one."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from kan.checkpoint.directory import Checkpoint
from kan.knowledge.adapter import new_adapter
from kan.knowledge.fit import Fit
from kan.knowledge.phi import gap_phi
from lab.evaluation import calibration, locality, order
from lab.evaluation.base import Base
from lab.evaluation.cells import Cell, Journal, Outcome, ResumeError
from lab.evaluation.conditions import Tuned, bare, conditions, gold_alone, gold_seen, mounted, pasted
from lab.evaluation.evaluation import Plan, Watcher, evaluate
from lab.evaluation.material import Material
from lab.evaluation.plot import PlotError, require_matplotlib, write_plot
from lab.evaluation.report import Findings, Report, describe, print_report, write_json
from lab.evaluation.statistics import Bin, bootstrap
from lab.evaluation.subject import Ask, Given, Reply, Respondent, Setup, Subject
from lab.questions.mounting import Mounted
from lab.questions.question import Question
from server.cli import app
from server.settings import Settings
from tests.kb.hashing import HashEncoder

QUESTION = Question(
    "synthetic", "Mara", "age", "How old is Mara?", ("42",), "42", ("Mara is 42 years old.",), numeric=True
)
FACTS = ("Tove is 12.", "Mara is 42 years old.", "Line 4 is late.")
FITS = (Fit(0.9, 0.4, 0), Fit(0.8, 0.2, 0.3), Fit(0.1, -0.1, 0.1))
MOUNTED = Mounted(QUESTION, FACTS, fits=FITS, gold=(1,))
SMALL = Plan(data=None, sets=("synthetic",), distractors=(0, 2), questions=3, dev_questions=2, parts=("table", "order"))


@pytest.fixture(scope="module")
def subject(tiny: Checkpoint) -> Subject:
    config = tiny.config
    phi = gap_phi(config.num_layers, config.num_heads, config.head_dim)
    return Subject.load(tiny, HashEncoder(), replace(phi, coefficients=2 * phi.coefficients), "double gap", "float64")


@pytest.fixture
def respondent(subject: Subject, tmp_path: Path) -> Iterator[Respondent]:
    one = Respondent(subject, tmp_path / "pages", max_tokens=6)
    yield one
    asyncio.run(one.aclose())


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


def test_replies_come_in_the_order_of_the_questions(subject: Subject, respondent: Respondent) -> None:
    asks = [Ask(f"Question {number}?") for number in range(40)]
    setup = Setup(subject.model, None)
    done: list[int] = []
    together = asyncio.run(respondent.answers(setup, asks, done.append))
    assert sum(done) == 40
    assert [one.text for one in together[:3]] == [ask_all(respondent, setup, ask)[0].text for ask in asks[:3]]


def cell(condition: str, right: list[bool], distractors: int = 7, dataset: str = "synthetic") -> Cell:
    outcomes = [Outcome(f"q{place}", "reply", one, False, place % 2 == 0) for place, one in enumerate(right)]
    return Cell(dataset, condition, distractors, tuple(outcomes), 1.5)


def test_an_outcome_is_judged() -> None:
    assert Outcome.of(QUESTION, Reply("She is 42.", (), ())).right
    assert not Outcome.of(QUESTION, Reply("She is 420.", (), ())).right
    assert Outcome.of(QUESTION, Reply("42", (), ())).exact


def test_cells() -> None:
    ours, theirs = cell("learned", [True, True, True, False]), cell("prompt", [True, False, False, False])
    assert ours.right().mean == 0.75
    assert ours.above(theirs).mean == 0.5
    numeric = ours.numeric()
    assert numeric is not None
    assert (numeric.mean, numeric.n) == (1, 2)
    with pytest.raises(ValueError, match="different questions"):
        ours.above(cell("prompt", [True]))


def test_a_journal_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "run.partial.jsonl"
    first = Journal(path, {"model": "a"}, resume=False)
    first.set_tuned({"kblam_constant": 10.0, "temperature": 0.5, "scale": 1.0})
    first.add(cell("zero", [True]))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"cell": {"dataset": "cut o')
    second = Journal(path, {"model": "a"}, resume=True)
    assert second.cells == first.cells
    assert second.tuned == first.tuned
    second.add(cell("learned", [False]))
    assert len(Journal(path, {"model": "a"}, resume=True).cells) == 2
    with pytest.raises(ResumeError, match=r"run\.partial\.jsonl"):
        Journal(path, {"model": "b"}, resume=True)
    assert Journal(path, {"model": "b"}, resume=False).cells == {}


def test_a_journal_is_continued_with_another_phi(tmp_path: Path) -> None:
    """What does not depend on φ stands; the rest is of one φ only."""
    path = tmp_path / "run.partial.jsonl"
    first = Journal(path, {}, "one", resume=False)
    first.add(cell("zero", [True]))
    first.add(cell("learned", [False]), uses_phi=True)
    second = Journal(path, {}, "two", resume=True)
    assert [key[1] for key in second.cells] == ["zero"]
    second.add(cell("learned", [True]), uses_phi=True)
    for phi, right in (("one", 0), ("two", 1)):
        cells = Journal(path, {}, phi, resume=True).cells
        assert [key[1] for key in cells] == ["zero", "learned"]
        assert [one.right().mean for one in cells.values()] == [1, right]


def test_conditions_that_depend_on_phi_say_so(subject: Subject) -> None:
    for one in conditions(subject, Tuned()):
        assert one.uses_phi == (one.setup.phi is subject.learned)


def run(plan: Plan, subject: Subject, journal: Journal, told: list[str]) -> Report:
    report = Report(describe(subject, seed=plan.seed))
    watcher = Watcher(
        lambda what, _: told.append(what) or (lambda _: None),  # type: ignore[func-returns-value]
        told.append,
        lambda done: told.append(done.condition),
        lambda _: None,
    )
    asyncio.run(evaluate(plan, subject, Settings(), report, journal, watcher))
    return report


def test_a_whole_run(subject: Subject, tmp_path: Path) -> None:
    path, told = tmp_path / "run.partial.jsonl", []
    report = run(SMALL, subject, Journal(path, {}, resume=False), told)
    # Three rows do not depend on distractors.
    assert len(report.cells) == 3 + 7 * 2
    assert report.tuned is not None
    assert {len(one.outcomes) for one in report.cells} == {3}
    assert report.cell("synthetic", "none", 2) is report.cell("synthetic", "none", 0)
    in_float64, in_float32 = report.findings
    assert in_float64.figures["largest |Δ log probability|"] < 1e-9
    assert in_float32.figures["largest |Δ log probability|"] < 1e-3
    again: list[str] = []
    resumed = run(replace(SMALL, parts=("table",)), subject, Journal(path, {}, resume=True), again)
    assert resumed.cells == report.cells
    assert not any("tuning" in line for line in again)


def test_one_engine_serves_consecutive_cells(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.engine.paged.embedded import EmbeddedEngine

    started: list[object] = []
    monkeypatch.setattr(
        "lab.evaluation.subject.EmbeddedEngine", lambda *args: started.append(args[0]) or EmbeddedEngine(*args)
    )
    plan = replace(SMALL, parts=("table",), only=("none", "prompt", "zero", "ceiling", "learned"), questions=1)
    run(plan, subject, Journal(None, {}, resume=False), [])
    assert len(started) == 2


def test_locality_where_nothing_is_mounted(subject: Subject, respondent: Respondent, tmp_path: Path) -> None:
    base = Base(tmp_path / "base", subject.encoder, top_k=8, min_score=1.0, min_best_score=1.0)
    base.upsert({"a": "Mara runs the depot.", "b": "Line 4 is late."})
    done: list[int] = []
    setup = Setup(subject.model, subject.learned)
    found = asyncio.run(locality.measure(base, ["Who?", "What?"], setup, respondent, done.append))
    assert found.figures["KL (nats) of the first token: p90"] == 0
    assert found.figures["same reply"] == bootstrap([True, True])
    assert sum(done) == 4
    base.close()


def test_locality_where_facts_are_mounted(subject: Subject, respondent: Respondent, tmp_path: Path) -> None:
    base = Base(tmp_path / "base", subject.encoder, top_k=8, min_score=-1.0, min_best_score=-1.0)
    base.upsert({"a": "Mara runs the depot.", "b": "Line 4 is late."})
    base.upsert({"a": "Tove runs the depot."})
    assert {one.text for one in base.ask("Who?").facts} == {"Tove runs the depot.", "Line 4 is late."}
    setup = Setup(subject.model, subject.learned)
    found = asyncio.run(locality.measure(base, ["Who?", "What?"], setup, respondent, lambda _: None))
    median = found.figures["KL (nats) of the first token: median"]
    assert isinstance(median, float)
    assert 0 < median < 50
    base.close()


def test_grounding_is_fitted(subject: Subject, respondent: Respondent) -> None:
    material = Material(subject.encoder, None, 1)
    setup = Setup(subject.model, subject.learned)
    findings, fitted = asyncio.run(
        calibration.measure(subject, material, ["synthetic"], setup, respondent, 4, lambda _: None)
    )
    assert findings.figures["cases"] == 8
    assert 0 <= fitted([0.5, 0.1], [0.1, 0.2]) <= 1
    assert fitted.phi_digest == subject.learned.digest


def test_order_counts_only_common_contexts(subject: Subject, respondent: Respondent) -> None:
    setup = Setup(subject.model, None)
    found = asyncio.run(order.measure([MOUNTED], setup, respondent, 1, lambda _: None))
    assert found.figures["same reply"] == bootstrap([True] * order.PERMUTATIONS)


@pytest.fixture
def report() -> Report:
    cells = [
        *(cell(name, [True, False, name == "learned"], count) for name in ("prompt", "learned") for count in (0, 7)),
        cell("none", [False] * 3, 0),
    ]
    meanings = {"none": "no knowledge", "prompt": "facts in the prompt", "learned": "pages, learned φ"}
    found = Findings("grounded: a title", {"AUROC": 0.9, "share": bootstrap([True])}, [Bin(0.1, 0.2, 3)])
    return Report({"command": "kalmagrove eval knowledge"}, None, meanings, cells, [found])


def test_a_report_as_json(report: Report, tmp_path: Path) -> None:
    write_json(report, tmp_path / "new" / "report.json")
    content = json.loads((tmp_path / "new" / "report.json").read_text("utf-8"))
    assert content["command"] == "kalmagrove eval knowledge"
    learned = next(one for one in content["cells"] if (one["condition"], one["distractors"]) == ("learned", 7))
    assert learned["contains"]["mean"] == pytest.approx(2 / 3, abs=1e-4)
    assert content["learned_of_ceiling"] == {"synthetic": {"0": None, "7": None}}
    assert learned["above_prompt"]["mean"] == pytest.approx(1 / 3, abs=1e-4)
    assert content["findings"]["grounded: a title"]["AUROC"] == 0.9
    assert content["findings"]["grounded: a title"]["reliability"][0]["n"] == 3


def test_a_report_as_tables(report: Report) -> None:
    console = Console(record=True, width=160, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    print_report(report, console)
    text = console.export_text()
    for shown in ("facts in the prompt", "learned - prompt", "numbers and identifiers", "AUROC", "67 ["):
        assert shown in text
    console.file.close()


def test_a_report_as_a_picture(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_plot(report, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PlotError, match="nothing was measured"):
        write_plot(Report({}), tmp_path / "none.png")


def test_a_picture_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlotError, match=r"kalmagrove\[train\]"):
        require_matplotlib()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--data is needed for edits, counterfact, locality"),
        (["--data", "nowhere"], "nowhere is no directory"),
        (["--parts", "table", "--sets", "trivia"], "trivia is unknown"),
        (["--parts", "nothing"], "nothing is unknown"),
        (["--parts", "table", "--conditions", "magic"], "magic is unknown"),
        (["--parts", "table", "--distractors", "0,many"], "no list of numbers"),
        (["--parts", "table", "--distractors", "99"], "0 to 63"),
        (["--parts", "table", "--resume"], "--resume needs the --json"),
    ],
)
def test_refusals(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["eval", "knowledge", *arguments])
    assert result.exit_code == 2, result.output
    assert said in result.stderr


@pytest.mark.smollm2
def test_phi_beats_no_phi(smollm2: Checkpoint) -> None:
    """What CI watches: the φ that is served by default must answer clearly more than none."""
    result = CliRunner().invoke(
        app, ["eval", "knowledge", "--smoke", "--model", str(smollm2.directory)], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    assert "passed" in result.stdout
