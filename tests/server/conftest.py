"""The service under test, on the tiny model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from tests.server.support import FACTS, Service, build_services, running


@pytest.fixture(scope="session")
def encoder() -> MiniLMEncoder:
    return MiniLMEncoder()


@pytest.fixture
async def service(tmp_path: Path, tiny: Checkpoint, encoder: MiniLMEncoder) -> AsyncIterator[Service]:
    """Empty knowledge."""
    async with running(build_services(tmp_path, tiny, encoder)) as service:
        yield service
        await service.engine.audit()


@pytest.fixture
async def informed(service: Service) -> Service:
    """With three facts."""
    await service.put(**FACTS)
    return service
