"""A real server in a process of its own, with a tiny model and an empty store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from loadtests.client import Target
from loadtests.serving import temporary_server
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    data_dir = tmp_path_factory.mktemp("server-data")
    (data_dir / "models").mkdir()
    tiny_checkpoint(data_dir / "models", max_position_embeddings=4096)
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KALMAGROVE_MODEL", "tiny")
            target = stack.enter_context(temporary_server(data_dir))
        yield target
