from __future__ import annotations

import pytest

from kan.checkpoint.directory import Checkpoint
from kan.prompt import PromptBuilder
from kan.shipped import shipped_model
from tests.engine.harness import World

SHIPPED = "kan-scan"


@pytest.fixture(scope="session", params=["tiny", pytest.param(SHIPPED, marks=pytest.mark.slow)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Random weights without a group; and, in the long suite, the native model that comes with the package."""
    if request.param == "tiny":
        return World.create(tmp_path_factory.mktemp("model"))
    directory = shipped_model(SHIPPED)
    assert directory is not None
    checkpoint = Checkpoint.open(directory)
    return World(checkpoint, PromptBuilder.from_checkpoint(checkpoint))
