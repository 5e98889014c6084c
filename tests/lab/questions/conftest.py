"""Files of invented questions, made once. Tests must not write into them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.questions.invented import write_question_files


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_question_files(tmp_path_factory.mktemp("questions"))
