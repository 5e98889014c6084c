"""The engine's number of threads while it runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
import torch

from server.engine.paged.embedded import EmbeddedEngine
from tests.engine.harness import World, answer

PATIENCE = 200
"""Looks, a tenth of a second apart."""


@pytest.fixture
def mask() -> Iterator[set[int]]:
    """The process's own; it is put back."""
    before = os.sched_getaffinity(0)
    yield before
    restrict(before)


def restrict(cores: set[int]) -> None:
    """Every thread of the process, as `taskset -ap` does."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)


async def becomes(engine: EmbeddedEngine, threads: int) -> bool:
    for _ in range(PATIENCE):
        if await engine.run(torch.get_num_threads) == threads:
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
async def test_a_running_engine_follows_the_mask(world: World, mask: set[int]) -> None:
    async with world.engine() as engine:
        before = await engine.run(torch.get_num_threads)
        whole = await answer(engine, world.request("Lisa asks"))
        restrict({min(mask)})
        assert await becomes(engine, 1)
        assert (await answer(engine, world.request("Lisa asks"))).tokens == whole.tokens
        restrict(mask)
        assert await becomes(engine, before)
