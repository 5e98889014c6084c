from __future__ import annotations

import pytest

from tests.engine.harness import World


@pytest.fixture(scope="session")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The tiny random model, unless a test asks for a shipped one by its name (`EVERY_MODEL`)."""
    name = getattr(request, "param", "tiny")
    return World.create(tmp_path_factory.mktemp("model")) if name == "tiny" else World.shipped(name)
