"""One run of `kalmagrove eval knowledge`: the main table, then the further evaluations, each when it is wanted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from kan.quantization import Bits
from lab.evaluation import (
    citing,
    counterfact,
    edits,
    gating,
    locality,
    order,
    page_bits,
    reading,
    retrieval,
    served,
    turns,
)
from lab.evaluation.cells import Cell
from lab.evaluation.conditions import Tuned, conditions
from lab.evaluation.grounded.cases import Case, CaseFile
from lab.evaluation.grounded.collecting import POOL, collect, collected_of, whole_groups
from lab.evaluation.grounded.judging import grounding_of
from lab.evaluation.journal import Journal
from lab.evaluation.knowledge_base import KnowledgeBase
from lab.evaluation.material import Material
from lab.evaluation.plan import Plan
from lab.evaluation.report import Report
from lab.evaluation.subject import Advance, Respondent, Setup, Subject
from lab.evaluation.table import Table
from lab.evaluation.tuning import dev_questions, tune
from lab.questions import names
from lab.questions.conversations import conversations
from lab.questions.counterfact import load_counterfact_edits
from lab.questions.factbook import load_edits
from lab.questions.mounting import Mounted
from lab.questions.question import Pool, Split
from lab.questions.sources import load_pool, splits_of
from server.demo.facts import demo_facts
from server.settings import Settings

ORDER_QUESTIONS = 20
BASE_FACTS = 1000
TUNED_CONDITIONS = ("kblam", "scaled")


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is told how the run goes."""

    begin: Callable[[str, int], Advance]
    """(what begins, of how many requests) -> whom to tell of those done."""
    tell: Callable[[str], None]
    """A line of text."""
    cell: Callable[[Cell], None]
    """A finished cell."""
    changed: Callable[[Report], None]
    """The report has grown."""


async def evaluate(
    plan: Plan, subject: Subject, settings: Settings, report: Report, journal: Journal, watcher: Watcher
) -> None:
    """Fill the report, part by part. Pages and bases live in a temporary directory."""
    with TemporaryDirectory(prefix="kalmagrove-eval-") as name:
        run = _Run(plan, subject, settings, report, journal, watcher, Path(name))
        started = time.perf_counter()
        try:
            for part in plan.parts:
                await getattr(run, part)()
                report.seconds = time.perf_counter() - started
                watcher.changed(report)
        finally:
            await run.respondent.aclose()


class _Run:
    """The parts, by name."""

    def __init__(
        self,
        plan: Plan,
        subject: Subject,
        settings: Settings,
        report: Report,
        journal: Journal,
        watcher: Watcher,
        directory: Path,
    ) -> None:
        self.plan, self.subject, self.settings = plan, subject, settings
        self.report, self.journal, self.watcher = report, journal, watcher
        self.directory = directory
        self.respondent = Respondent(subject, directory / "pages", plan.max_tokens)
        self.material = Material(subject.encoder, plan.data, plan.seed)
        self.learned = Setup(subject.model, subject.learned)

    async def table(self) -> None:
        tuned = await self._tuned()
        rows = [one for one in conditions(self.subject, tuned) if not self.plan.only or one.name in self.plan.only]
        self.report.meanings = {one.name: one.meaning for one in rows}
        plan = self.plan
        table = Table(rows, plan.distractors, plan.questions, self.material, self.respondent, self.journal)
        for dataset in plan.sets:
            self.watcher.tell(f"{dataset}: loading and embedding")
            advance = self.watcher.begin(dataset, len(table.places) * len(self._gold(dataset)))
            await table.measure(dataset, advance, self._cell_done)
            self.watcher.changed(self.report)

    def _cell_done(self, cell: Cell) -> None:
        self.report.cells.append(cell)
        self.watcher.cell(cell)

    async def _tuned(self) -> Tuned:
        wanted = not self.plan.only or set(TUNED_CONDITIONS) & set(self.plan.only)
        if not wanted or not self.plan.dev_questions:
            return Tuned()
        if self.journal.tuned is None:
            self.watcher.tell("tuning the baselines on the dev split")
            plan = self.plan
            chosen = dev_questions(self.material, plan.sets, plan.distractors, plan.dev_questions)
            self.journal.set_tuned(asdict(await tune(self.subject, self.respondent, chosen, self.watcher.tell)))
        self.report.tuned = Tuned(**(self.journal.tuned or {}))
        return self.report.tuned

    async def edits(self) -> None:
        changes = load_edits(self._data(), "test", edits.BASE_EDITS, self.plan.seed)
        with self._base("edits") as base:
            advance = self.watcher.begin("edits", 2 * min(self.plan.questions, len(changes)))
            found = await edits.measure(changes, base, self.learned, self.respondent, self.plan.questions, advance)
        self.report.findings.append(found)

    async def counterfact(self) -> None:
        known = load_counterfact_edits(self._data(), "test", counterfact.BASE_EDITS, self.plan.seed)
        with self._base("counterfact") as base:
            advance = self.watcher.begin("CounterFact", 6 * min(self.plan.questions, len(known)))
            found = await counterfact.measure(known, base, self.learned, self.respondent, self.plan.questions, advance)
        self.report.findings.append(found)

    async def locality(self) -> None:
        """Facts of invented entities cannot answer a question about the world."""
        with self._base("locality") as base:
            pool = load_pool("synthetic", None, "test", questions=BASE_FACTS, seed=self.plan.seed)
            base.upsert({str(place): fact.text for place, fact in enumerate(pool.facts[:BASE_FACTS])})
            questions = locality.unrelated_questions(self._data(), 2 * self.plan.questions)
            advance = self.watcher.begin("locality", 2 * len(questions))
            found = await locality.measure(base, questions, self.learned, self.respondent, advance)
            scores = [score for name in self.plan.sets for one in self._gold(name) for score in one.scores]
            gates = gating.measure(base, questions, scores, self.settings.min_best_score)
        self.report.findings += [found, gates]

    async def grounding(self) -> None:
        """Cases are kept, so that fitting to them again asks nothing."""
        plan = self.plan
        file = CaseFile(plan.cases, collected_of(self.subject, self.settings, plan.seed))
        cases: dict[Split, list[Case]] = {"dev": [], "test": []}
        for dataset in plan.sets:
            for split in splits_of(dataset):
                count = whole_groups(plan.questions if split == "test" else plan.dev_questions)
                advance = self.watcher.begin(f"grounding: {dataset}, {split}", count)
                pool = load_pool(dataset, plan.data, split, questions=POOL, seed=plan.seed)
                given = (pool, split, count, plan.seed)
                await collect(*given, self._base, self.learned, self.respondent, file, advance)
                cases[split] += file.of(dataset, split, count)
        findings, self.report.grounding = grounding_of(cases["dev"], cases["test"], self.subject)
        self.report.findings += findings

    async def order(self) -> None:
        """In the arithmetic of serving, and where rounding is so small that anything else would show."""
        mounted = self.material.mounted(self.plan.sets[0], "test", self.plan.questions, 7)[:ORDER_QUESTIONS]
        exact = Setup(self.subject.in_float32(), self.subject.learned)
        advance = self.watcher.begin("order", 2 * len(mounted) * (order.PERMUTATIONS + 1))
        found = await order.measure(mounted, self.learned, self.respondent, self.plan.seed, advance)
        self.report.findings.append(found)
        precise = Respondent(self.subject, self.directory / "pages-float32", self.plan.max_tokens)
        try:
            self.report.findings.append(await order.measure(mounted, exact, precise, self.plan.seed, advance))
        finally:
            await precise.aclose()

    async def retrieval(self) -> None:
        """The sets of the table, and many near names."""
        advance = self.watcher.begin("retrieval", len(self._all_sets()))
        for pool in self._pools(self._all_sets()):
            with self._base(f"retrieval-{pool.dataset}") as base:
                self.report.findings.append(retrieval.measure(pool, base, self.subject.encoder))
            advance(1)

    async def turns(self) -> None:
        """Of conversations about the demo's knowledge."""
        asked = conversations(self.plan.questions, self.plan.seed)
        facts = {fact.id: fact.text for fact in demo_facts() if fact.id}
        with self._base("turns") as base:
            self.report.findings += turns.measure(asked, facts, base, self.subject.encoder)

    async def served(self) -> None:
        """The sets of the table, and many near names."""
        plain = Setup(self.subject.model, None)
        for pool in self._pools(self._all_sets()):
            advance = self.watcher.begin(f"served: {pool.dataset}", served.WAYS * len(pool.questions))
            with self._base(f"served-{pool.dataset}") as base:
                found = await served.measure(pool, base, self.learned, plain, self.respondent, advance)
            self.report.findings.append(found)
            self.watcher.changed(self.report)

    async def citations(self) -> None:
        """The sets of the table."""
        for pool in self._pools(self.plan.sets):
            advance = self.watcher.begin(f"citations: {pool.dataset}", len(citing.WAYS) * len(pool.questions))
            with self._base(f"citations-{pool.dataset}") as base:
                self.report.findings += await citing.measure(pool, base, self.learned, self.respondent, advance)
            self.watcher.changed(self.report)

    async def page_bits(self) -> None:
        """The sets of the table, with facts in 8 and in 4 bits and in the model's own numbers."""
        small: dict[Bits, Respondent] = {
            bits: Respondent(self.subject, self.directory / f"pages-{bits}bit", self.plan.max_tokens, page_bits=bits)
            for bits in (8, 4)
        }
        try:
            for dataset in self.plan.sets:
                mounted = self.material.mounted(dataset, "test", self.plan.questions, page_bits.DISTRACTORS)
                advance = self.watcher.begin(f"page bits: {dataset}", (1 + len(small)) * len(mounted))
                found = await page_bits.measure(dataset, mounted, self.learned, self.respondent, small, advance)
                self.report.findings.append(found)
                self.watcher.changed(self.report)
        finally:
            for respondent in small.values():
                await respondent.aclose()

    async def reading(self) -> None:
        """Questions that ask for more than a value, with the right passage alone and among others."""
        questions = self.plan.questions
        mounted = {count: self.material.mounted("prose", "test", questions, count) for count in reading.DISTRACTORS}
        phis = {one.name: one.setup.phi for one in conditions(self.subject, Tuned()) if one.name in reading.CONDITIONS}
        advance = self.watcher.begin("reading", questions * (1 + len(mounted) * len(phis)))
        self.report.findings += await reading.measure(self.subject, mounted, phis, self.directory, advance)

    def _all_sets(self) -> list[str]:
        return list(dict.fromkeys((*self.plan.sets, names.DATASET)))

    def _pools(self, sets: Sequence[str]) -> Iterator[Pool]:
        for dataset in sets:
            yield load_pool(dataset, self.plan.data, "test", questions=self.plan.questions, seed=self.plan.seed)

    def _gold(self, dataset: str) -> list[Mounted]:
        return self.material.mounted(dataset, "test", self.plan.questions, 0)

    def _base(self, name: str) -> closing[KnowledgeBase]:
        settings = self.settings
        base = KnowledgeBase(
            self.directory / name,
            self.subject.encoder,
            top_k=settings.top_k,
            min_score=settings.min_score,
            min_best_score=settings.min_best_score,
            max_gap=settings.max_gap,
            drop_covered=settings.drop_covered,
        )
        return closing(base)

    def _data(self) -> Path:
        assert self.plan.data is not None, "a plan with these parts has data"
        return self.plan.data
