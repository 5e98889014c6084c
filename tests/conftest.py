"""Models that many tests share, each made once per session, into which they must not write; and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from kan.checkpoint.directory import Checkpoint
from kan.checkpoint.sources import import_model
from loadtests.database import Database, missing, temporary_database
from tests.tiny import tiny_checkpoint

# A busy machine is no failure: pytest's own timeout bounds a test that hangs.
settings.register_profile("kalmagrove", deadline=None)
settings.load_profile("kalmagrove")

_MODELS = Path(__file__).resolve().parents[1] / "data" / "models"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The default tiny model."""
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """SmolLM2-135M-Instruct: the one `make models` imported, or else imported now from the installed package."""
    imported = _MODELS / "smollm2-135m"
    if imported.exists():
        return Checkpoint.open(imported)
    return import_model("smollm2-135m", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Database]:
    """A running PostgreSQL of the tests' own."""
    if why := missing():
        pytest.skip(why)
    with temporary_database() as database:
        yield database


@pytest.fixture
def url(postgres: Database) -> str:
    """Where there is no log yet."""
    return postgres.empty()
