"""A little of everything that a server is asked: answers, edits, more than it takes, clients that leave."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx

QUESTION = "Who is the chief executive of Quillhaven Transit?"
CHAT = "/v1/chat/completions"


async def load(url: str, client_key: str, admin_key: str, seconds: float) -> None:
    """Round after round for so long. Refusals are part of it."""
    async with (
        httpx.AsyncClient(base_url=url, headers=_bearer(client_key), timeout=120, trust_env=False) as client,
        httpx.AsyncClient(base_url=url, headers=_bearer(admin_key), timeout=120, trust_env=False) as admin,
    ):
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            number += 1
            await asyncio.gather(_answers(client), _edits(admin, number), _leaves(client))
            if number % 5 == 0:
                await asyncio.gather(*(client.post(CHAT, json=_chat()) for _ in range(16)))


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _chat(**fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": QUESTION}
    return {"model": "smollm2-135m", "messages": [message], "max_tokens": 12, "temperature": 0, **fields}


async def _answers(client: httpx.AsyncClient) -> None:
    prompt = {"model": "smollm2-135m", "prompt": QUESTION, "max_tokens": 8}
    bodies = [(CHAT, _chat(stream=True)), (CHAT, _chat()), ("/v1/completions", prompt)]
    for answer in await asyncio.gather(*(client.post(path, json=body) for path, body in bodies)):
        assert answer.status_code in (200, 429), answer.text


async def _edits(admin: httpx.AsyncClient, number: int) -> None:
    """Small ones, now and then a large one, and one that goes again."""
    await _put(admin, [f"small-{number % 20}"], number)
    if number % 4 == 0:
        await _put(admin, [f"large-{place}" for place in range(8)], number)
    await admin.delete(f"/admin/kb/facts/small-{(number - 3) % 20}")


async def _put(admin: httpx.AsyncClient, ids: list[str], number: int) -> None:
    facts = [{"id": id, "text": f"Depot {id} of Quillhaven Transit holds {number} trams."} for id in ids]
    assert (await admin.put("/admin/kb/facts", json={"facts": facts})).status_code == 200


async def _leaves(client: httpx.AsyncClient) -> None:
    """Before its answer is complete."""
    async with client.stream("POST", CHAT, json=_chat(stream=True, max_tokens=200, ignore_eos=True)) as answer:
        async for _ in answer.aiter_lines():
            break
