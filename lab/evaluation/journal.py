"""Finished cells on disk, so that a run that is cut off can be continued."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.errors import ResumeError
from lab.evaluation.cells import Cell, Outcome


class Journal:
    """What is finished, one JSON line each, so that a run that is cut off can be continued, with another φ, too.

    The first line says what is being measured; a journal of something else is refused. Of one with another φ, only the
    cells that do not depend on φ are taken.
    """

    def __init__(self, path: Path | None, subject: Mapping[str, object], phi: str = "", *, resume: bool) -> None:
        """`phi` names the φ under test. `path` None: nothing is kept. Raises ResumeError or OSError."""
        self._path = path
        self._phi = phi
        self.cells: dict[tuple[str, str, int], Cell] = {}
        self.tuned: dict[str, float] | None = None
        if path is None:
            return
        header = json.dumps({"subject": subject}, sort_keys=True)
        if resume and path.exists():
            self._read(path, header)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(header + "\n", encoding="utf-8")

    def add(self, cell: Cell, *, uses_phi: bool = False) -> None:
        self.cells[cell.key] = cell
        self._append({"cell": asdict(cell), "phi": self._phi if uses_phi else None})

    def set_tuned(self, tuned: dict[str, float]) -> None:
        self.tuned = tuned
        self._append({"tuned": tuned})

    def _append(self, entry: dict[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def _read(self, path: Path, header: str) -> None:
        lines = path.read_text("utf-8").splitlines(keepends=True)
        if not lines or lines[0] != header + "\n":
            raise ResumeError(f"{path}: was written by a run with other options or another model")
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):  # the run was cut off while writing the last line
            path.write_text("".join(whole), encoding="utf-8")
        for entry in map(json.loads, whole[1:]):
            self.tuned = entry.get("tuned", self.tuned)
            if (fields := entry.get("cell")) and entry["phi"] in (None, self._phi):
                outcomes = tuple(Outcome(**one) for one in fields["outcomes"])
                cell = Cell(**{**fields, "outcomes": outcomes})
                self.cells[cell.key] = cell
