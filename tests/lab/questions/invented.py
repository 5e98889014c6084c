"""Invented files of questions in the formats that lab.questions reads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

INVENTED = Path(__file__).parent / "data" / "invented.json"
"""A few rows of each file, as a template whose {} become many subjects."""


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_question_files(folder: Path) -> Path:
    """Every file, with sixty subjects for each row of the template."""
    templates = json.loads(INVENTED.read_text("utf-8"))
    for name, rows in templates.items():
        filled = [
            _filled(row, f"{chr(65 + number % 26)}o{chr(97 + number // 26)}land")
            for number in range(60)
            for row in rows
        ]
        write(folder / name, filled)
    return folder


def _filled(value: Any, subject: str) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, subject) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, subject) for item in value]
    return value.replace("{}", subject)
