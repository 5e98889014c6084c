"""A model whose context is shorter than the facts that the settings allow."""

from __future__ import annotations

from pathlib import Path

import pytest

from kan.prompt import PromptBuilder
from kb.encoder.minilm import MiniLMEncoder
from server.engine.protocol import RequestTooLarge
from tests.engine.harness import World
from tests.server.support import build_services, chat_body, error, running
from tests.tiny import tiny_checkpoint

ROOM = 192


async def test_facts_leave_room_for_a_question(tmp_path: Path, encoder: MiniLMEncoder) -> None:
    small = tiny_checkpoint(tmp_path, max_position_embeddings=ROOM)
    prompt = PromptBuilder.from_checkpoint(small)
    most = (ROOM - len(prompt.preamble)) // 2
    text = "x y z " * ROOM
    async with running(build_services(tmp_path, small, encoder)) as service:
        refused = await service.http.put("/admin/kb/facts", json={"facts": [{"id": "a", "text": text}]})
        assert refused.status_code == 400
        assert f"at most {most} are allowed" in error(refused)["message"]
        params = {"split": "true"}
        put = await service.http.put("/admin/kb/facts", json={"facts": [{"id": "a", "text": text}]}, params=params)
        assert put.status_code == 200, put.text
        assert all(len(prompt.fact(fact.text)) <= most for fact in service.store.snapshot.facts("default", 0))
        asked = chat_body("x y z?", max_tokens=2, knowledge={"min_score": -1, "top_k": 1})
        reply = await service.http.post("/v1/chat/completions", json=asked)
        assert reply.status_code == 200, reply.text
        assert reply.json()["knowledge"]["facts"]


async def test_the_engine_takes_no_fact_beyond_its_positions(tmp_path: Path) -> None:
    world = World.of(tiny_checkpoint(tmp_path, max_position_embeddings=ROOM))
    room = ROOM - len(world.prompt.preamble)
    async with world.engine(max_fact_tokens=256) as engine:
        longer = "x" * 10
        while len(world.fact(longer).tokens) <= room:
            longer += " x"
        with pytest.raises(RequestTooLarge, match=f"1 to {room} tokens"):
            await engine.encode([world.fact(longer)])
        await engine.encode([world.fact(longer[:20])])
