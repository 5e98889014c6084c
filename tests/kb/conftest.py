"""The store opened with a fast encoder, here or in another process."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from kb.store import Store
from tests.kb.editing import StartEditor, start_editor
from tests.kb.hashing import HashEncoder


@pytest.fixture
def encoder() -> HashEncoder:
    return HashEncoder()


@pytest.fixture
def store(tmp_path: Path, encoder: HashEncoder) -> Iterator[Store]:
    with Store.open(tmp_path / "kb", encoder) as opened:
        yield opened


@pytest.fixture(scope="session")
def make_encoder() -> Callable[[], HashEncoder]:
    return HashEncoder


@pytest.fixture(scope="session")
def editors(failing_disk: Path) -> StartEditor:
    """Starts editors: forked from a process that has imported everything, with the failing disk preloaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.kb.editing"])
    with mock.patch.dict(os.environ, {"LD_PRELOAD": str(failing_disk)}):
        probe = context.Process(target=str)  # starts the server that later ones are forked from
        probe.start()
    probe.join()
    return start_editor


@pytest.fixture(scope="session")
def failing_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to preload, under which fsync and fdatasync fail while the file $FAILING_DISK exists."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    source = Path(__file__).with_name("failing_disk.c")
    library = tmp_path_factory.mktemp("preload") / "failing_disk.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return library
