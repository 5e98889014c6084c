"""What is measured of a run, on disk while it goes on: one that was cut off goes on behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from loadtests.attention.measure import Measured


class Partial:
    """A line of JSON for each kind of attention that is measured; the first line says by which plan."""

    def __init__(self, path: Path | None, subject: Mapping[str, object]) -> None:
        """`path` None: nothing is kept. Raises ValueError for a file of another plan, or OSError."""
        self._path = path
        self.found: dict[str, Measured] = {}
        if path is None:
            return
        header = json.dumps(subject, sort_keys=True) + "\n"
        if path.exists():
            self._read(path, header)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(header, "utf-8")

    def add(self, name: str, measured: Measured) -> None:
        self.found[name] = measured
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": name, "measured": asdict(measured)}) + "\n")

    def remove(self) -> None:
        """The run has ended."""
        if self._path:
            self._path.unlink(missing_ok=True)

    def _read(self, path: Path, header: str) -> None:
        lines = path.read_text("utf-8").splitlines(keepends=True)
        if not lines or lines[0] != header:
            raise ValueError(f"{path}: was begun with other options; go on with those, or remove it")
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):  # cut off while it was written
            path.write_text("".join(whole), "utf-8")
        try:
            for entry in map(json.loads, whole[1:]):
                self.found[entry["name"]] = TypeAdapter(Measured).validate_python(entry["measured"])
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise ValueError(f"{path}: cannot be read; remove it ({error})") from error
