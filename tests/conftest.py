"""Models that many tests share, each made once per session, into which they must not write; and PostgreSQL.

And how the workers of pytest-xdist share the cores: each of them computes as a thread of a server does (`cpu.threads`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings

from cpu.threads import compute_alone, wait_briefly

with mock.patch.dict(os.environ):  # servers that tests start have to set it themselves
    wait_briefly()
    import torch  # noqa: F401

from kan.checkpoint.directory import Checkpoint
from kan.checkpoint.sources import import_model
from loadtests.database import Database, missing, temporary_database
from tests.tiny import tiny_checkpoint

# A busy machine is no failure: pytest's own timeout bounds a test that hangs.
settings.register_profile("kalmagrove", deadline=None)
settings.load_profile("kalmagrove")

_MODELS = Path(__file__).resolve().parents[1] / "data" / "models"


@pytest.hookimpl(optionalhook=True)  # the environment of `make test-vllm` may lack pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.scheduling import ByFileOrServer

    return ByFileOrServer(config, log)


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        compute_alone()


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
