"""√n attention behind the API: long conversations, streamed or not, n > 1, with facts, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kan.checkpoint.directory import Checkpoint
from kb.encoder.protocol import Encoder
from server.loading import _start_engine, engine_options
from server.settings import Settings
from tests.server.support import FACTS, QUESTION, Service, build_services, error, events, running
from tests.tiny import tiny_config

LONG = "The line goes on, past the gasworks and the mill, to the harbour. " * 6 + QUESTION
"""Over 400 tokens of the tiny model; its rows are routed from place 256 on."""


@pytest.fixture
async def served(tmp_path: Path, tiny: Checkpoint, encoder: Encoder) -> AsyncIterator[Service]:
    """In float64: so exact that batching can change no token."""
    services = build_services(
        tmp_path, tiny, encoder, dtype="float64", attention="sqrt", attention_blocks=1, attention_threshold=0, pages=200
    )
    async with running(services) as service:
        await service.put(**FACTS)
        yield service


async def text(service: Service, **fields: Any) -> list[str]:
    response = await service.chat(LONG, max_tokens=12, **fields)
    assert response.status_code == 200, response.text
    return [choice["message"]["content"] for choice in response.json()["choices"]]


async def test_streamed_or_not_and_every_choice_alike(served: Service) -> None:
    plain = await text(served)
    assert await text(served, n=3) == plain * 3
    streamed = events(await served.chat(LONG, max_tokens=12, stream=True))
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in streamed) == plain[0]
    assert served.engine.stats().pages_context == 0


async def test_facts_are_mounted_and_an_edit_is_seen(served: Service) -> None:
    asked = {"knowledge": {"top_k": 2, "min_score": 0}}
    before = (await served.chat(LONG, max_tokens=12, **asked)).json()
    (fact, *_) = before["knowledge"]["facts"]
    assert 0 < fact["attention"] < 1
    await served.put(**{fact["id"]: "The chief executive of Zorvex is Jonas Wetherby since the spring."})
    after = (await served.chat(LONG, max_tokens=12, **asked)).json()
    assert after["knowledge"]["version"] > before["knowledge"]["version"]
    assert after["choices"][0]["message"]["content"] != before["choices"][0]["message"]["content"]


async def test_many_at_once_with_too_few_pages(served: Service) -> None:
    """Six contexts of thirty pages in two hundred, some of them preempted, all of them as alone."""
    wanted = [{"seed": seed, "temperature": 1.0} for seed in range(6)]
    alone = [await text(served, **one) for one in wanted]
    assert await asyncio.gather(*(text(served, **one) for one in wanted)) == alone
    await served.engine.audit()


async def test_a_context_that_is_too_long_is_refused_as_ever(served: Service) -> None:
    response = await served.chat(LONG * 3)
    assert response.status_code == 400
    assert "context" in error(response)["message"]


def test_the_server_takes_it_from_its_settings(tiny: Checkpoint) -> None:
    settings = Settings(attention="sqrt", attention_blocks=5, attention_threshold=300)
    options = engine_options(settings, tiny.config)
    chosen = options.configured(tiny.config)
    assert (chosen.attention, chosen.attention_blocks, chosen.attention_threshold) == ("sqrt", 5, 300)
    assert options.pages < engine_options(Settings(), tiny.config).pages, "means of blocks take memory too"


def test_vllm_refuses_it_by_name(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="attention: the vllm engine computes full attention only"):
        Settings(engine="vllm", attention="sqrt")
    monkeypatch.setattr(Checkpoint, "config", tiny_config(attention="sqrt"), raising=False)
    with pytest.raises(ValueError, match="attention: the vllm engine computes full attention only"):
        _start_engine(Settings(engine="vllm"), tiny, None, None, "")  # type: ignore[arg-type]
