"""Data files that cannot be used are named."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from lab.errors import DataError
from lab.questions import counterfact, encyclopedia, factbook, squad
from lab.questions.sources import load_pool

FILES = {
    "factbook": factbook.FACTS_FILE,
    "counterfact": counterfact.FILE,
    "squad": squad.FILE,
    "encyclopedia": encyclopedia.FILE,
}


@pytest.mark.parametrize("dataset", FILES)
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ("{}", "must be a string"),
        ('{"subject": 1, "title": 1, "text": 1}', "must be"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, directory: Path, dataset: str, line: str, complaint: str) -> None:
    path = tmp_path / FILES[dataset]
    with gzip.open(directory / FILES[dataset], "rt", encoding="utf-8") as file:
        first = file.readline()
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(f"{first}\n{line}\n")
    with pytest.raises(DataError, match=re.escape(f"{path}, line 3: ") + ".*" + complaint):
        load_pool(dataset, tmp_path, "train", questions=5, seed=0)


@pytest.mark.parametrize("dataset", FILES)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, directory: Path, dataset: str) -> None:
    path = tmp_path / FILES[dataset]
    whole = (directory / FILES[dataset]).read_bytes()
    for content in (None, b"plain text", whole[: len(whole) // 2], whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(str(path))):
            load_pool(dataset, tmp_path, "train", questions=5, seed=0)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / factbook.FACTS_FILE
    path.write_bytes(gzip.compress(b'{"subject": "\xff"}\n'))
    with pytest.raises(DataError, match="not UTF-8"):
        load_pool("factbook", tmp_path, "train", questions=5, seed=0)
