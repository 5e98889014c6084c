"""Pages on disk begin to be read before the engine turns to the request that mounts them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kan.knowledge.pages import page_path
from tests.engine.harness import FACTS, World, answer


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that the system was told to read."""
    plain: Callable[[int, int, int, int], None] = os.posix_fadvise
    names: list[str] = []

    def noted(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_WILLNEED)
        names.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        plain(descriptor, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", noted)
    return names


async def test_while_the_engine_computes_for_others(world: World, tmp_path: Path, begun: list[str]) -> None:
    facts = [world.fact(text) for text in FACTS[:3]]
    names = sorted(page_path(tmp_path, fact.key).name for fact in facts)
    keys = [fact.key for fact in facts]
    async with world.engine(page_dir=tmp_path) as engine:
        await engine.encode(facts)
        engine.expect(keys)
        assert begun == [], "they are in memory"
    busy, done = threading.Event(), threading.Event()
    async with world.engine(page_dir=tmp_path) as engine:
        computing = asyncio.create_task(engine.run(lambda: (busy.set(), done.wait(10))))
        await asyncio.to_thread(busy.wait, 10)
        try:
            engine.expect([*keys, "unknown"])
            assert sorted(begun) == names, "the engine's thread does something else"
        finally:
            done.set()
        await computing
        await answer(engine, world.request("How much?", *FACTS[:3]))
        assert engine.stats().facts_encoded == 0
        begun.clear()
        engine.expect(keys)
        assert begun == []


async def test_a_file_that_went_meanwhile(world: World, tmp_path: Path, begun: list[str]) -> None:
    fact = world.fact(FACTS[0])
    async with world.engine(page_dir=tmp_path) as engine:
        await engine.encode([fact])
    async with world.engine(page_dir=tmp_path) as engine:
        page_path(tmp_path, fact.key).unlink()
        engine.expect([fact.key])
        assert begun == []
        await answer(engine, world.request("How much?", FACTS[0]))
        assert engine.stats().facts_encoded == 1
