from __future__ import annotations

import pytest

from tests.engine.harness import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.create(tmp_path_factory.mktemp("model"))
