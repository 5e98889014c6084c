"""Questions that were answered, kept as JSON lines: collecting them takes minutes, fitting to them none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lab.errors import ResumeError
from lab.questions.question import Split


@dataclass(frozen=True, slots=True)
class MountedText:
    """A fact that was mounted, and how it was found."""

    text: str
    relevance: float
    lexical: float
    gold: bool
    """One of those that answer the question."""


@dataclass(frozen=True, slots=True)
class Case:
    """A question, what was mounted for it, and the reply."""

    dataset: str
    split: Split
    number: int
    """Place in its set and split."""
    question: str
    answerable: bool
    """The facts that answer it are in the base."""
    facts_in_base: int
    facts: tuple[MountedText, ...]
    """Mounted ones, best first."""
    others: tuple[float, ...]
    """Relevances of what was found as well, but not mounted."""
    fact_mounted: bool
    """All facts that it takes to answer are mounted."""
    reply: str
    attention: tuple[float, ...]
    """Share of each mounted fact."""
    logprobs: tuple[float, ...]
    """Of the reply's tokens."""
    right: bool

    @property
    def key(self) -> tuple[str, str, int]:
        return self.dataset, self.split, self.number


_CASES = TypeAdapter(Case)


class CaseFile:
    """The first line says of which model, φ and options the cases are; a file of others is refused."""

    def __init__(self, path: Path | None, subject: Mapping[str, object]) -> None:
        """`path` None: nothing is kept. Raises ResumeError or OSError."""
        self._path = path
        self._cases: dict[tuple[str, str, int], Case] = {}
        if path is None:
            return
        header = json.dumps({"subject": subject}, sort_keys=True) + "\n"
        if path.exists():
            self._read(path, header)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(header, encoding="utf-8")

    def __contains__(self, key: tuple[str, str, int]) -> bool:
        return key in self._cases

    def of(self, dataset: str, split: Split, count: int) -> list[Case]:
        """The first `count` of a set, as many as there are."""
        found = [self._cases.get((dataset, split, number)) for number in range(count)]
        return [case for case in found if case is not None]

    def add(self, cases: Iterable[Case]) -> None:
        """Raises OSError."""
        new = list(cases)
        self._cases |= {case.key: case for case in new}
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(case), ensure_ascii=False) + "\n" for case in new)

    def _read(self, path: Path, header: str) -> None:
        lines = path.read_text("utf-8").split("\n")
        if lines[0] + "\n" != header:
            raise ResumeError(f"{path}: its cases are of other options, another model or another φ")
        if lines.pop():  # cut off while the last line was written
            path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        for number, line in enumerate(lines[1:], 2):
            try:
                case = _CASES.validate_json(line)
            except ValidationError as error:
                raise ResumeError(f"{path}: line {number} is no case: {error.errors()[0]['msg']}") from error
            self._cases[case.key] = case
